"""Windows of spectrograms: random in training, the middle in evaluation (datasets.md §3.3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest

from g2d_pipeline.config import MODALITIES, AudioAugment, AudioFeatures, DatasetSettings, SmallCNN
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.features.kinds import audio
from g2d_pipeline.training import Data, train_student, train_teacher
from g2d_pipeline.training.augment import augment, changes_anything, generator, random_window, without_chance
from g2d_pipeline.training.data import gather
from tests.conftest import TINY, prepare_wave, read_audio, recipe

WINDOW = AudioAugment(window_frames=5)
CPU = torch.device("cpu")


def counting(samples: int, frames: int = 12) -> torch.Tensor:
    """`[B, 1, 2, T]`: each number is the number of its frame, and 100 more in the second row."""
    return (torch.arange(float(frames)) + torch.tensor([[0.0], [100.0]])).expand(samples, 1, 2, frames)


def test_a_window_is_frames_in_a_row_from_any_start() -> None:
    found = augment(counting(4000), WINDOW, None, generator(0, 0, 1, 0))
    assert found.shape == (4000, 1, 2, 5)
    assert torch.equal(found[:, :, 1], found[:, :, 0] + 100)
    assert torch.equal(found.diff(dim=-1), torch.ones(4000, 1, 2, 4))
    starts = found[:, 0, 0, 0].numpy()
    assert set(starts.tolist()) == set(range(8))  # 12 − 5 + 1
    assert np.bincount(starts.astype(int)).min() > 400
    others = augment(counting(4000), WINDOW, None, generator(0, 0, 2, 0))
    assert kstest(others[:, 0, 0, 0].numpy(), starts).pvalue > 0.01
    assert not torch.equal(others, found)  # another epoch, other windows


def test_where_a_window_lies_depends_on_the_sample_s_place_alone() -> None:
    whole = augment(counting(40), WINDOW, None, generator(0, 0, 1, 0))
    assert torch.equal(augment(counting(7), WINDOW, None, generator(0, 0, 1, 0)), whole[:7])
    noisy = augment(counting(40), AudioAugment(window_frames=5, noise=1e-6), None, generator(0, 0, 1, 0))
    torch.testing.assert_close(noisy, whole, rtol=0, atol=0.01)


def test_evaluation_takes_the_middle() -> None:
    assert changes_anything(WINDOW)
    assert without_chance(counting(2), WINDOW)[0, 0, 0].tolist() == [
        3,
        4,
        5,
        6,
        7,
    ]  # as many before as behind, or one less
    assert torch.equal(without_chance(counting(2), AudioAugment()), counting(2))
    assert torch.equal(without_chance(counting(2), None), counting(2))
    whole = AudioAugment(window_frames=12)
    assert torch.equal(without_chance(counting(2), whole), counting(2))
    assert torch.equal(random_window(counting(2), generator(0, 0, 1, 0), 12), counting(2))


def test_a_window_that_does_not_fit_is_told() -> None:
    with pytest.raises(ConfigError, match="window_frames=13, but samples have 12 frames"):
        without_chance(counting(2), AudioAugment(window_frames=13))
    assert AudioFeatures(seconds=1.0).frames == 126
    with pytest.raises(
        ValidationError, match=r"augment.window_frames is 127, but the spectrogram has 126 frames"
    ):
        MODALITIES["audio"](seconds=1.0, augment=AudioAugment(window_frames=127))


@pytest.fixture(scope="module")
def data() -> Data:
    """The class is told by a loud row; the windows' shape is all that an encoder with a grid takes."""
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    sound = rng.normal(size=(60, 1, 6, 12)).astype(np.float32)
    sound[np.arange(60), 0, 2 * label] += 2
    table = (np.eye(3)[label] + rng.normal(size=(60, 3))).astype(np.float32)
    split = ["train"] * 36 + ["val"] * 12 + ["test"] * 12
    return Data.from_arrays({"sound": sound, "table": table}, label, split, augment={"sound": WINDOW})


def test_the_encoder_s_samples_are_windows(data: Data) -> None:
    assert data.shape("sound") == (1, 6, 5)
    assert data.shape("table") == (3,)
    rows = np.array([3, 1])
    assert np.array_equal(gather(data, rows, CPU)["sound"].numpy(), data.arrays["sound"][rows][..., 3:8])


def test_teachers_and_student_train_on_windows_and_are_judged_on_the_middle(data: Data) -> None:
    encoders = {"sound": SmallCNN(widths=[4, 6], grid=2), "table": TINY}
    teachers = {m: train_teacher(data, m, e, training=recipe(3), device="cpu") for m, e in encoders.items()}
    sound = teachers["sound"]
    assert sound.info["architecture"]["modalities"]["sound"]["shape"] == [1, 6, 5]
    with torch.no_grad():
        said = sound.model.eval()({"sound": torch.from_numpy(data.arrays["sound"][..., 3:8].copy())})
    assert torch.allclose(sound.outputs["logits/sound"], said.logits, atol=1e-5)
    student = train_student(data, encoders, teachers, training=recipe(2), device="cpu")
    assert student.info["architecture"]["modalities"]["sound"]["shape"] == [1, 6, 5]
    with torch.no_grad():
        inputs = {
            "sound": torch.from_numpy(data.arrays["sound"][..., 3:8].copy()),
            "table": torch.from_numpy(data.arrays["table"]),
        }  # val and test are what a student remembers
        features = student.model.eval()(inputs).features
    assert torch.allclose(student.outputs["feature/sound"], features["sound"][36:], atol=1e-5)


def test_the_published_windows_of_vggsound(repository: Path, shared_data: Path) -> None:
    """Ten seconds stored, five used. What a window aligned to the hop differs in from the published order of
    steps (cut the waveform, then transform) is its first and its last frame, whose ends see sound, not
    zeros."""
    import soundfile
    import yaml

    tree = yaml.safe_load((repository / "conf/base/parameters_vggsound.yml").read_text("utf-8"))["datasets"][
        "vggsound"
    ]
    of = DatasetSettings.model_validate(
        {k: v for k, v in tree.items() if k not in ("smp", "sample", "methods")}
    ).modalities["audio"]
    assert isinstance(of, AudioFeatures)
    assert of.augment is not None
    assert audio.Audio(of).spec([], Path()).shape == (1, 129, 1251)
    path = shared_data / "vggsound_meta/FwVYUHKoLtQ_000034.wav"
    stored = audio.spectrogram(prepare_wave(*read_audio(path), of, "")[None], of)
    ours = without_chance(stored, of.augment)[0, 0].numpy()
    assert ours.shape == (129, 626)

    samples, rate = soundfile.read(path)
    assert rate == 16_000
    start = 312 * 128
    cut = np.pad(samples[start : start + 5 * rate].clip(-1, 1), 128)
    window = np.hanning(257)[:-1]
    published = np.log(
        np.abs([np.fft.rfft(cut[s : s + 256] * window) for s in range(0, 80_001, 128)]).T + 1e-7
    )
    assert published.shape == ours.shape
    magnitude = np.exp(published)
    assert np.abs(np.exp(ours) - magnitude)[:, 1:-1].max() < 1e-5 * magnitude.max()
    assert np.abs(ours - published)[:, [0, -1]].max() > 0.1
