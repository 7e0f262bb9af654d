"""Small made-up raw folders, and what is needed to write stores of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from g2d_pipeline.config import AudioFeatures, FeaturizeSettings, ImageFeatures, RunOptions, TabularFeatures
from g2d_pipeline.features import write_store

RATE = 4000
AUDIO = AudioFeatures(sample_rate=RATE, seconds=0.25, noise=0.1, n_fft=64, hop_length=64)
IMAGE = ImageFeatures(size=[6, 5], channels=3)
TABLE = TabularFeatures(columns=["heat", "rain"])


@dataclass(frozen=True)
class MadeUp:
    """As `sources.manifest.Manifest`, without its checks."""

    table: pd.DataFrame
    meta: dict[str, Any]


@dataclass
class Raw:
    """A raw folder of `n` samples: recordings (each of them in two samples), pictures, a table of two
    columns."""

    root: Path
    n: int
    modalities: dict[str, Any] = field(
        default_factory=lambda: {"audio": AUDIO, "image": IMAGE, "table": TABLE}
    )

    def __post_init__(self) -> None:
        rng = np.random.default_rng(7)
        (self.root / "wav").mkdir(parents=True)
        (self.root / "png").mkdir()
        for i in range((self.n + 1) // 2):
            soundfile.write(
                self.wav(i), 0.5 * rng.standard_normal(int(rng.integers(300, 1500))), RATE, subtype="PCM_16"
            )
        for i in range(self.n):
            Image.fromarray(rng.integers(0, 256, (8, 7, 3), np.uint8)).save(self.png(i))
        self.table = pd.DataFrame({
            "sample_id": [f"s{i:03d}" for i in range(self.n)],
            "split": ["train"] * (self.n - 4) + ["val", "val", "test", "test"],
            "target": np.arange(self.n) % 3,
            "audio": [f"wav/{i // 2}.wav" for i in range(self.n)],
            "image": [f"png/{i}.png" for i in range(self.n)],
            "heat": rng.normal(20, 5, self.n),
            "rain": np.where(np.arange(self.n) % 5 == 0, np.nan, rng.normal(2, 1, self.n)),
        })  # fmt: skip

    def wav(self, i: int) -> Path:
        return self.root / f"wav/{i}.wav"

    def png(self, i: int) -> Path:
        return self.root / f"png/{i}.png"

    @property
    def manifest(self) -> MadeUp:
        columns = {
            m: s.all_columns if isinstance(s, TabularFeatures) else [m] for m, s in self.modalities.items()
        }
        meta = {
            "dataset": "made_up", "task": "classification", "class_names": ["a", "b", "c"],
            "target": {"name": "label", "unit": ""}, "source": "raw", "columns": columns,
            "counts": {s: int((self.table["split"] == s).sum()) for s in ("train", "val", "test")},
        }  # fmt: skip
        return MadeUp(self.table, meta)

    def settings(self, compute: Any = None) -> FeaturizeSettings:
        options = RunOptions(device="cpu", progress=False, compute=compute or {"workers": 1})
        return FeaturizeSettings(dataset="made_up", modalities=self.modalities, options=options)

    def write(self, folder: Path, compute: Any = None) -> Path:
        write_store(folder, self.manifest, self.root, self.settings(compute))
        return folder


@pytest.fixture
def make_raw(tmp_path: Path) -> Callable[..., Raw]:
    def make(n: int = 12, only: Sequence[str] | None = None, **modalities: Any) -> Raw:
        raw = Raw(tmp_path / f"raw{len(list(tmp_path.iterdir()))}", n)
        raw.modalities |= modalities
        if only is not None:
            raw.modalities = {m: raw.modalities[m] for m in only}
        return raw

    return make


@dataclass(frozen=True)
class ClipMaker:
    """Small films in `folder`: picture i is grey, of brightness 8 · i (modulo 256), and so tells its number.

    `gop`: pictures from one key frame to the next; `sound`: `[channels, T]` float32 at 16 kHz, or None.
    """

    folder: Path

    def __call__(
        self,
        name: str = "clip.mp4",
        pictures: int = 24,
        rate: Fraction | int = 25,
        size: tuple[int, int] = (48, 32),
        gop: int = 6,
        codec: str = "libx264",
        sound: np.ndarray | None = None,
        rotation: int = 0,
        audio_codec: str = "aac",
    ) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            if pictures:
                stream = container.add_stream(codec, rate=rate)
                stream.width, stream.height = size
                stream.pix_fmt = "yuv420p"
                stream.gop_size = gop
                stream.options = {"crf": "1", "sc_threshold": "0", "bf": "2"} if codec == "libx264" else {}
                if rotation:
                    stream.set_display_rotation(rotation)
            if sound is not None:
                track = container.add_stream(audio_codec, rate=16_000)
                track.layout = "stereo" if len(sound) == 2 else "mono"
            for i in range(pictures):
                pixels = np.full((size[1], size[0], 3), 8 * i % 256, np.uint8)
                pixels[: size[1] // 2, : size[0] // 2] |= 7  # the upper left corner is lighter
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = i
                container.mux(stream.encode(frame))
            if pictures:
                container.mux(stream.encode(None))
            if sound is not None:
                samples = np.ascontiguousarray(sound, np.float32)
                heard = av.AudioFrame.from_ndarray(samples, format="fltp", layout=track.layout.name)
                heard.sample_rate, heard.pts = 16_000, 0
                for part in av.AudioResampler(format=track.format, layout=track.layout, rate=16_000).resample(
                    heard
                ):
                    container.mux(track.encode(part))
                container.mux(track.encode(None))
        return path


@pytest.fixture
def make_clip(tmp_path: Path) -> ClipMaker:
    return ClipMaker(tmp_path / "clips")


def bytes_of(folder: Path) -> dict[str, str]:
    """File name → digest of its content, for everything in a folder."""
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


@pytest.fixture
def contents() -> Callable[[Path], dict[str, str]]:
    return bytes_of


@pytest.fixture(scope="session")
def broken_media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What is wrong → such a file; `wav …`/`jpg …` are of one kind, the others of any."""
    folder = tmp_path_factory.mktemp("broken")
    files = {
        "missing": folder / "missing.wav",
        "empty": folder / "empty.wav",
        "lfs": folder / "lfs.wav",
        "html": folder / "page.jpg",
        "noise": folder / "noise.bin",
        "folder": folder / "folder.wav",
        "wav truncated": folder / "truncated.wav",
        "flac truncated": folder / "truncated.flac",
        "aiff truncated": folder / "truncated.aiff",
        "mp3 truncated": folder / "truncated.mp3",
        "wav without sound": folder / "nothing.wav",
        "wav nan": folder / "nan.wav",
        "jpg truncated": folder / "truncated.jpg",
        "png truncated": folder / "truncated.png",
        "png floats": folder / "floats.tif",
    }
    rng = np.random.default_rng(0)
    wave = 0.1 * rng.standard_normal(8000).astype(np.float32)
    files["empty"].touch()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 73216\n"
    files["lfs"].write_text(pointer)
    files["html"].write_text("\ufeff\n<!DOCTYPE html><html><title>Quota exceeded</title></html>")
    files["noise"].write_bytes(rng.bytes(500))
    files["folder"].mkdir()
    for ending in ("wav", "flac", "aiff", "mp3"):
        path = files[f"{ending} truncated"]
        soundfile.write(path, wave, 8000)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    soundfile.write(files["wav without sound"], wave[:0], 8000)
    wave[5:8] = np.nan
    soundfile.write(files["wav nan"], wave, 8000, subtype="FLOAT")
    picture = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
    for ending in ("jpg", "png"):
        path = files[f"{ending} truncated"]
        picture.save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    Image.fromarray(rng.random((4, 4)).astype(np.float32)).save(files["png floats"])
    return files
