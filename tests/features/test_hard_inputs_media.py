"""Media that comparable software reads wrongly, cuts, or refuses though they are whole.

The right value of each folder of the shared `hard_inputs`, whose README tells where they come from. Small
files of the same kinds: test_media_forms.py"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from g2d_pipeline.config import AudioFeatures, ImageFeatures, VideoFeatures
from g2d_pipeline.features.chunks import decode_cells
from g2d_pipeline.features.kinds import Findings, kind_of, video
from tests.conftest import read_audio

FEATURES = {"audio": AudioFeatures, "image": ImageFeatures, "video": VideoFeatures}


def decode_folder(folder: Path, modality: str) -> tuple[dict[str, Any], Findings]:
    """(cell → decoded features, what was found) of a folder, with the settings of its YAML."""
    content = yaml.safe_load(next(folder.glob("*.yml")).read_text("utf-8"))
    (dataset,) = content["datasets"].values()
    settings = dataset["modalities"][modality]
    settings.pop("encoder")
    table = (folder / "raw/m.csv").read_text("utf-8").splitlines()
    column = table[0].split(",").index(modality if modality in table[0] else "video")
    cells = list(dict.fromkeys(row.split(",")[column] for row in table[1:]))
    values, findings = decode_cells(kind_of(FEATURES[modality](**settings)), cells, folder / "raw")
    return dict(zip(cells, values, strict=True)), findings


# ------------------------------------------------------------------------------------------------ the folders
@pytest.mark.parametrize(
    ("name", "seconds", "rate", "first_sound"),
    [
        ("01-mp3-vbr-without-xing/raw/a/vbr.mp3", 10.031, 44_100, 0.0),
        ("02-mp3-vbr-without-xing-refused/raw/a/vbr_q.mp3", 5.042, 44_100, 3.0),
        ("03-mp3-concatenated/raw/a/twice.mp3", 2.091, 16_000, 0.0),
        ("04-ogg-chained/raw/a/chained.ogg", 2.016, 16_000, 0.0),
        ("05-wav-gsm610/raw/a/gsm.wav", 1.0, 8_000, 0.0),
        ("23-sound-that-starts-later/raw/v/late.mkv", 1.4, 16_000, 0.4),
        ("23-sound-that-starts-later/raw/v/late.mp4", 1.424, 16_000, 0.4),
        ("10-mkv-segments-refused/raw/v/seg0.mkv", 10.2135, 48_000, 0.0),
        ("10-mkv-segments-refused/raw/v/seg1.mkv", 9.4935, 48_000, 0.0),
        ("10-mkv-segments-refused/raw/v/seg2.mkv", 10.28, 48_000, 0.0),
    ],
)
def test_sound_is_whole_and_in_its_place(
    shared_data: Path, name: str, seconds: float, rate: int, first_sound: float
):
    path = shared_data / "hard_inputs" / name
    wave, found = read_audio(path)
    assert (round(len(wave) / found, 3), found) == (pytest.approx(seconds, abs=1e-3), rate)
    heard = np.flatnonzero(np.abs(wave.numpy()) > 0.1) / rate
    assert heard[0] == pytest.approx(first_sound, abs=0.05)
    assert heard[-1] > len(wave) / rate - 0.12
    assert kind_of(AudioFeatures())._header(path)["seconds"] == pytest.approx(seconds, rel=0.06)


@pytest.mark.parametrize(
    ("folder", "cell", "frames"),
    [
        ("01-mp3-vbr-without-xing", "a/vbr.mp3", 1251),
        ("03-mp3-concatenated", "a/twice.mp3", 251),
        ("04-ogg-chained", "a/chained.ogg", 251),
        ("05-wav-gsm610", "a/gsm.wav", 126),
        ("23-sound-that-starts-later", "v/late.mkv", 126),
        ("23-sound-that-starts-later", "v/late.mp4", 134),  # with the 64 ms that AAC begins with
    ],
)
def test_spectrograms_have_sound_to_their_end(shared_data: Path, folder: str, cell: str, frames: int):
    values, findings = decode_folder(shared_data / "hard_inputs" / folder, "audio")
    assert not findings.faults
    assert (values[cell][0].max(axis=0) > -10).sum() == frames


def test_a_cielab_tiff_as_grey(shared_data: Path):
    """The luma of sRGB (ITU-R 601), computed here from CIELAB at D50."""
    values, findings = decode_folder(shared_data / "hard_inputs/06-tiff-lab-as-grey", "image")
    assert not findings.faults
    with Image.open(shared_data / "hard_inputs/06-tiff-lab-as-grey/raw/p/lab.tif") as picture:
        raw = np.asarray(picture)
    y = (raw[..., 0] * (100 / 255) + 16) / 116
    xyz = np.stack([y + raw[..., 1].view(np.int8) / 500, y, y - raw[..., 2].view(np.int8) / 200], axis=-1)
    xyz = np.where(xyz > 6 / 29, xyz**3, 3 * (6 / 29) ** 2 * (xyz - 4 / 29)) * [0.9642, 1, 0.8249]
    to_rgb = [[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]
    linear = xyz @ np.transpose(to_rgb)
    inside = ((linear > 0.003) & (linear < 0.99)).all(axis=-1)  # of sRGB's colours
    linear = np.clip(linear, 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    luma = 255 * rgb @ [0.299, 0.587, 0.114]
    found = values["p/lab.tif"][0]
    assert inside.sum() > 1000
    assert np.abs(found - luma)[inside].mean() < 1
    assert np.abs(found - luma)[inside].max() < 5  # Pillow rounds on its way by XYZ
    assert (int(found.min()), int(found.max())) == (pytest.approx(26, abs=3), 220)


def test_depth_in_millimetres_is_noted_and_scaled_on_request(shared_data: Path):
    folder = shared_data / "hard_inputs/07-png16-depth-in-millimetres"
    values, findings = decode_folder(folder, "image")
    assert len(np.unique(values["p/depth_mm.png"])) == 7
    assert findings.notes["narrow"] == {0: 1}
    assert "value_range" in kind_of(ImageFeatures()).notes["narrow"]
    of = ImageFeatures(size=[48, 64], channels=1, value_range=[800, 2370])
    scaled, findings = decode_cells(kind_of(of), ["p/depth_mm.png"], folder / "raw")
    assert not findings.notes["narrow"]
    with Image.open(folder / "raw/p/depth_mm.png") as picture:
        deep = np.asarray(picture).astype(float)
    assert np.array_equal(scaled[0, 0], np.rint((deep - 800) / 1570 * 255))
    assert len(np.unique(scaled)) > 120


def test_white_is_zero_in_16_bits(shared_data: Path):
    values, findings = decode_folder(shared_data / "hard_inputs/08-tiff16-white-is-zero", "image")
    assert not findings.faults
    assert not findings.notes["narrow"]
    with Image.open(
        shared_data / "hard_inputs/08-tiff16-white-is-zero/raw/p/white_is_zero_16.tif"
    ) as picture:
        deep = np.asarray(picture)
    assert np.array_equal(values["p/white_is_zero_16.tif"][0], (65_535 - deep) >> 8)
    assert values["p/white_is_zero_16.tif"][0, 0, 0] == 76  # as ffmpeg


TURNS: dict[str, Callable[[Any], Any]] = {
    "base": lambda a: a,
    "hflip": lambda a: a[:, ::-1],
    "vflip": lambda a: a[::-1],
    "rot180": lambda a: a[::-1, ::-1],
    "transp": lambda a: a.transpose(1, 0, 2),
    "rot90": lambda a: np.rot90(a, -1),
    "rot270": lambda a: np.rot90(a),
    "transverse": lambda a: a[::-1, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("name", ["base", "hflip", "vflip", "rot180", "transp"])
def test_mirrored_clips(shared_data: Path, name: str):
    clips = shared_data / "hard_inputs/09-mp4-mirrored-by-matrix/raw/v"
    plain = video.read_frames(clips / "base.mp4", 2, "even").numpy()
    for found, picture in zip(
        video.read_frames(clips / f"{name}.mp4", 2, "even").numpy(), plain, strict=True
    ):
        assert np.array_equal(found.transpose(1, 2, 0), TURNS[name](picture.transpose(1, 2, 0)))


def test_mirrored_clips_have_features(shared_data: Path):
    values, findings = decode_folder(shared_data / "hard_inputs/09-mp4-mirrored-by-matrix", "video")
    assert not findings.faults
    assert np.array_equal(values["v/hflip.mp4"], values["v/base.mp4"][..., ::-1])
    assert np.array_equal(values["v/vflip.mp4"], values["v/base.mp4"][..., ::-1, :])


def test_segments_are_whole(shared_data: Path):
    folder = shared_data / "hard_inputs/10-mkv-segments-refused"
    values, findings = decode_folder(folder, "video")
    assert not findings.faults
    assert all(picture.any() for picture in values.values())
    kind = kind_of(VideoFeatures())
    seconds = [kind._header(folder / "raw" / cell)["seconds"] for cell in values]
    assert seconds == pytest.approx([10.4, 9.69, 10.3], abs=0.02)


def test_sound_and_pictures_of_a_clip_are_in_step(shared_data: Path):
    folder = shared_data / "hard_inputs/23-sound-that-starts-later"
    pictures, findings = decode_folder(folder, "video")
    sounds, heard = decode_folder(folder, "audio")
    assert not findings.faults | heard.faults
    assert list(pictures) == list(sounds)
    for spectrogram in sounds.values():
        first = int(np.flatnonzero(spectrogram[0].max(axis=0) > 0)[0])
        assert first * 128 / 16_000 == pytest.approx(0.4, abs=0.03)
