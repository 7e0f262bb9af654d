"""Recordings → spectrograms."""

from __future__ import annotations

import math
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from g2d_pipeline.config import AudioFeatures
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.features.kinds import audio
from tests.conftest import prepare_wave, read_audio

PLAIN = AudioFeatures(sample_rate=8000, seconds=0.5)


# --------------------------------------------------------------------------------------------------- decoding
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "is missing"),
        ("empty", r"is empty \(0 bytes\)"),
        ("lfs", "is a Git-LFS pointer.*git lfs pull"),
        ("html", "is a web page"),
        ("noise", "can not be decoded"),
        ("folder", "is a folder"),
        ("wav truncated", "is truncated: its header promises 16000 bytes, it holds 7978"),
        ("flac truncated", "can not be decoded.*lost sync"),
        ("aiff truncated", "is truncated: its header promises"),
        ("mp3 truncated", "is truncated: its header promises 8000 samples"),
        ("wav without sound", "holds no sound: 0 samples"),
        ("wav nan", "holds 3 samples that are not finite"),
        ("jpg truncated", "can not be decoded"),
    ],
)
def test_a_bad_recording_is_told(broken_media: dict[str, Path], what: str, message: str):
    path = broken_media[what]
    with pytest.raises(DataError, match=f"(?s){path.name} {message}.*What to do") as caught:
        read_audio(path)
    if path.is_file():
        with pytest.raises(DataError) as again:
            read_audio(path, path.read_bytes())
        assert str(again.value) == str(caught.value)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), MediaError)  # it may cross a process boundary


SPOKEN = struct.pack("<4h", -32768, 32767, 0, -1)


def plain(
    samples: bytes, rate: int = 8000, speed: int = 16000, align: int = 2, riff: int = 0, data: int = 0
) -> bytes:
    """A WAV of one channel of 16 bits; `riff` and `data` are added to the sizes that its header tells."""
    head = (b"RIFF", 36 + len(samples) + riff, b"WAVEfmt ", 16, 1, 1, rate, speed, align, 16, b"data")
    return struct.pack("<4sI8sIHHIIHH4sI", *head, len(samples) + data) + samples


@pytest.mark.parametrize(
    ("content", "plainly"),
    [
        (plain(SPOKEN), True),
        (plain(np.random.default_rng(0).integers(-(2**15), 2**15, 9999, "i2").astype("<i2").tobytes()), True),
        (plain(b"\0" * 64), True),
        (plain(SPOKEN + b"\7", data=-1), False),  # an odd byte at the end
        (plain(SPOKEN, data=-2), False),
        (plain(SPOKEN, riff=-4), False),
        (plain(SPOKEN, data=2**32 - 9, riff=2**32 - 45), False),  # as a stream is written
        (plain(SPOKEN, speed=7), False),
        (plain(SPOKEN, align=4), False),
    ],
)
def test_a_plain_wav_is_what_soundfile_reads(tmp_path: Path, content: bytes, plainly: bool):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert (audio._plain_wav(content) is not None) == plainly
    expected, rate = soundfile.read(path, dtype="float32")
    assert expected.any() == (b"\0" * 64 not in content)
    for read in (None, content):
        wave, found = read_audio(path, read)
        assert found == rate
        assert wave.numpy().tobytes() == expected.tobytes()


def test_real_recordings_are_what_soundfile_reads(shared_data: Path):
    for path in sorted((shared_data / "fsdd/recordings").glob("*_7.wav")):
        read = audio._plain_wav(path.read_bytes())
        assert read is not None
        expected, rate = soundfile.read(path, dtype="float32")
        assert (read[0].tobytes(), read[1]) == (expected.tobytes(), rate)


def test_a_batch_is_finished_as_each_of_it_alone():
    waves = torch.randn(5, 4000, generator=torch.Generator().manual_seed(0)) * 3
    waves[2] = 0
    for update in ({"clamp": True, "noise": 0.2}, {"peak_normalise": False, "noise": 0.1}, {"noise": 0.0}):
        of = PLAIN.model_copy(update=update)
        alone = torch.stack([prepare_wave(wave, 8000, of, f"{k}") for k, wave in enumerate(waves)])
        assert torch.equal(audio.finish(waves, of, [f"{k}" for k in range(5)]), alone)


def test_real_lfs_pointers(shared_data: Path):
    for file in (shared_data / "cremad_meta/lfs_pointers/AudioWAV").glob("*.wav"):
        with pytest.raises(DataError, match="Git-LFS"):
            read_audio(file)


@pytest.mark.parametrize("ending", ["wav", "flac", "aiff"])
def test_channels_are_averaged(tmp_path: Path, ending: str):
    samples = np.random.default_rng(0).integers(-9000, 9000, (100, 2)).astype(np.int16)
    soundfile.write(tmp_path / f"two.{ending}", samples, 11025)
    wave, rate = read_audio(tmp_path / f"two.{ending}")
    assert (rate, wave.dtype, wave.shape) == (11025, torch.float32, (100,))
    assert np.array_equal(wave.numpy(), (samples.mean(axis=1) / 32768).astype(np.float32))


@pytest.mark.parametrize(
    ("subtype", "step"),
    [
        ("PCM_U8", 2**-7),
        ("PCM_16", 2**-15),
        ("PCM_24", 2**-23),
        ("PCM_32", 2**-24),
        ("FLOAT", 2**-24),
        ("DOUBLE", 2**-24),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_any_wav_has_full_scale_one(tmp_path: Path, subtype: str, step: float, channels: int):
    """To the step of its own numbers, or of float32's."""
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (500, channels))
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype=subtype)
    wave, rate = read_audio(tmp_path / "a.wav")
    assert (rate, wave.dtype) == (8000, torch.float32)
    assert np.abs(wave.numpy() - samples.mean(axis=1)).max() <= step


@pytest.mark.parametrize("rate", [8000, 11_025, 44_100, 192_000])
def test_a_tone_keeps_its_pitch_whatever_the_file_s_rate(tmp_path: Path, rate: int):
    soundfile.write(
        tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate), rate, subtype="PCM_16"
    )
    of = AudioFeatures(sample_rate=16_000, seconds=1.0)
    ready = prepare_wave(*read_audio(tmp_path / "a.wav"), of, "a.wav")
    found = audio.spectrogram(ready[None], of)[0, 0]
    assert found.shape == (129, 126)
    assert set(found[:, 4:-4].argmax(dim=0).tolist()) == {16}  # 1000 Hz of bins 62.5 Hz apart


def test_a_silent_file_is_read_and_called_silent(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", np.zeros(4000), 8000)
    wave, rate = read_audio(tmp_path / "a.wav")
    assert audio.is_silent(wave, rate, PLAIN)
    soundfile.write(
        tmp_path / "b.wav", np.where(np.arange(4000) == 1234, 1 / 32768, 0), 8000
    )  # one step of 16 bits
    assert not audio.is_silent(*read_audio(tmp_path / "b.wav"), PLAIN)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 200])
def test_wav_sizes(tmp_path: Path, size: int):
    """A size that says "a stream" is no promise; an unknown chunk before the sound is skipped."""
    header = b"RIFF\xff\xff\xff\xffWAVEfmt " + np.array([16], "<u4").tobytes()
    header += np.array([1, 1], "<u2").tobytes() + np.array([8000, 16000], "<u4").tobytes()
    header += np.array([2, 16], "<u2").tobytes()
    sound = np.arange(100, dtype="<i2").tobytes()
    (tmp_path / "a.wav").write_bytes(
        header + b"junk\x03\0\0\0abc\0" + b"data" + np.array([size], "<u4").tobytes() + sound
    )
    assert len(read_audio(tmp_path / "a.wav")[0]) == 100


@pytest.mark.parametrize("form", ["RF64", "W64"])
def test_long_wav_forms(tmp_path: Path, form: str):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(1000, 0.5), 8000, format=form)
    assert len(read_audio(path)[0]) == 1000
    if form == "RF64":
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(DataError, match="its header promises 1000 samples, it holds 995"):
            read_audio(path)


def test_rows_of_an_array_are_waveforms(tmp_path: Path):
    np.save(tmp_path / "whole.npy", np.array([[0, 16384], [-32768, 1]], np.int16))
    wave, rate = audio.read_recording("whole.npy#1", tmp_path, PLAIN)
    assert rate == 8000
    assert wave.tolist() == [-1.0, 1 / 32768]
    np.save(tmp_path / "pictures.npy", np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(DataError, match=r"pictures.npy#1 is uint8 \[4, 4\], not a waveform"):
        audio.read_recording("pictures.npy#1", tmp_path, PLAIN)
    np.save(tmp_path / "nan.npy", np.full((2, 4), np.nan))
    with pytest.raises(DataError, match="holds 4 samples that are not finite"):
        audio.read_recording("nan.npy#0", tmp_path, PLAIN)


# -------------------------------------------------------------------------------------------------- preparing
def test_the_order_of_the_steps():
    """The peak is that of the kept part, and the noise comes after it."""
    wave = torch.cat([torch.full((4000,), 0.25), torch.full((4000,), 1.0)])
    kept = prepare_wave(wave, 8000, PLAIN, "a")
    assert torch.equal(kept, torch.ones(4000))
    noisy = prepare_wave(wave, 8000, PLAIN.model_copy(update={"noise": 0.3}), "a")
    assert torch.allclose(noisy, kept + 0.3 * torch.from_numpy(audio.white_noise(0, "a", 4000)))
    assert torch.equal(
        prepare_wave(wave, 8000, PLAIN.model_copy(update={"peak_normalise": False}), "a"), wave[:4000]
    )


def test_a_short_recording_is_filled_up_with_zeros_or_itself():
    """Published: CREMA-D's clips three times over, cut to 3 s; VGGSound's doubled until long enough."""
    wave = torch.arange(1.0, 1501)
    plain = PLAIN.model_copy(update={"peak_normalise": False})
    padded = prepare_wave(wave, 8000, plain, "a")
    assert torch.equal(padded[:1500], wave)
    assert not padded[1500:].any()
    repeat = plain.model_copy(update={"fill": "repeat"})
    assert torch.equal(prepare_wave(wave, 8000, repeat, "a"), torch.cat([wave] * 3)[:4000])
    assert torch.equal(prepare_wave(torch.ones(1), 8000, repeat, "a"), torch.ones(4000))
    long = torch.arange(5000.0)
    assert torch.equal(prepare_wave(long, 8000, repeat, "a"), long[:4000])


def test_clamping_comes_before_the_peak():
    wave = torch.linspace(-4, 2, 4000)
    clamped = prepare_wave(wave, 8000, PLAIN.model_copy(update={"clamp": True}), "a")
    assert torch.equal(clamped, wave.clamp(-1, 1))


def test_noise_is_fixed_per_recording():
    noise = audio.white_noise(0, "fsdd/0_jackson_0.wav", 20_000)
    assert np.array_equal(noise, audio.white_noise(0, "fsdd/0_jackson_0.wav", 20_000))
    others = [
        audio.white_noise(0, "fsdd/0_jackson_1.wav", 20_000),
        audio.white_noise(1, "fsdd/0_jackson_0.wav", 20_000),
    ]
    for other in others:
        assert abs(np.corrcoef(noise, other)[0, 1]) < 0.05
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
    assert noise[:3].tolist() == pytest.approx([-0.11325815, -0.56594396, -0.25783908])  # for good


def test_silence_stays_zero():
    silence = torch.zeros(300)
    assert audio.is_silent(silence, 8000, PLAIN)
    assert torch.equal(prepare_wave(silence, 8000, PLAIN, "a"), torch.zeros(4000))
    late = torch.cat([torch.zeros(4000), torch.ones(10), torch.zeros(10)])
    assert audio.is_silent(late, 8000, PLAIN)
    assert not audio.is_silent(late, 16000, PLAIN.model_copy(update={"seconds": 0.251}))


@settings(max_examples=40)
@given(
    samples=st.integers(1, 900),
    rate=st.sampled_from([800, 1000, 1600, 2205]),
    seconds=st.floats(0.05, 1.0),
    scale=st.floats(1e-6, 1e3),
    seed=st.integers(0, 9),
)
def test_prepared_waves(samples: int, rate: int, seconds: float, scale: float, seed: int):
    """Always the same length, a peak of one whatever the loudness, zeros after a short recording."""
    of = AudioFeatures(sample_rate=1000, seconds=seconds, n_fft=16, hop_length=8)
    wave = torch.from_numpy(np.random.default_rng(seed).normal(size=samples).astype(np.float32))
    ready = prepare_wave(wave * scale, rate, of, "a")
    assert ready.shape == (of.samples,)
    assert float(ready.abs().max()) == pytest.approx(1.0)
    assert torch.allclose(ready, prepare_wave(wave, rate, of, "a"), atol=1e-4)
    assert not ready[math.ceil(samples * 1000 / rate) :].any()


@pytest.mark.parametrize(("rate", "to"), [(44100, 8000), (8000, 16000), (11025, 8000)])
def test_resampling_keeps_low_tones_and_drops_what_does_not_fit(rate: int, to: int):
    def tone(hz: float, at: int) -> torch.Tensor:
        return torch.from_numpy(np.sin(2 * np.pi * hz * np.arange(at) / at).astype(np.float32))

    inner = slice(to // 10, -to // 10)
    assert torch.allclose(audio.resample(tone(440, rate), rate, to)[inner], tone(440, to)[inner], atol=2e-3)
    if rate > to:
        assert audio.resample(tone(to * 0.7, rate), rate, to)[inner].abs().max() < 0.02
    assert audio.resample(tone(440, rate), rate, rate).shape == (rate,)


def test_a_rate_without_common_factor_is_refused():
    with pytest.raises(DataError, match=r"odd.wav has the sample rate 44101 Hz.*resample it first"):
        prepare_wave(torch.ones(100), 44101, PLAIN, "odd.wav")


# ------------------------------------------------------------------------------------------------ spectrogram
def defined(wave: np.ndarray, n_fft: int, hop: int, padding: str) -> np.ndarray:
    """|STFT| `[F, frames]` in float64 by librosa's definition: centred frames, periodic Hann window, no
    scaling."""
    padded = np.pad(
        wave.astype(np.float64), n_fft // 2, mode="reflect" if padding == "reflect" else "constant"
    )
    window = scipy.signal.get_window("hann", n_fft, fftbins=True)
    starts = range(0, len(padded) - n_fft + 1, hop)
    return np.abs(np.array([np.fft.rfft(padded[s : s + n_fft] * window) for s in starts])).T


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize(("n_fft", "hop"), [(256, 128), (64, 64), (100, 30), (63, 20), (512, 353)])
def test_the_stft_against_numpy(n_fft: int, hop: int, padding: Any):
    of = AudioFeatures(sample_rate=1000, seconds=0.5, n_fft=n_fft, hop_length=hop, padding=padding)
    wave = np.random.default_rng(0).normal(size=500)
    expected = defined(wave, n_fft, hop, padding)
    found = audio.spectrogram(torch.from_numpy(wave)[None], of)
    assert tuple(found.shape[1:]) == audio.Audio(of).spec([], Path()).shape == (1, *expected.shape)
    assert np.allclose(found[0, 0].exp().numpy() - 1e-7, expected, rtol=1e-5, atol=0)
    single = audio.spectrogram(torch.from_numpy(wave.astype(np.float32))[None], of)
    assert np.abs(single[0, 0].exp().numpy() - 1e-7 - expected).max() < 1e-5 * expected.max()


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("case", ["vggsound", "crema_d", "odd"])
def test_the_stft_against_librosa(case: str, padding: Any):
    """Magnitudes that real librosa made (data/README.md), at the ends too: to 1e-5 of each, and in float32 to
    1e-5 of the largest. Only `padding` tells the two sets apart."""
    with np.load(Path(__file__).parent / "data/librosa_stft.npz", allow_pickle=False) as file:
        reference = {key: file[f"{case}/{key}"] for key in ("settings", "wave", "zeros", "reflect")}
    n_fft, hop = reference["settings"].tolist()
    wave, expected = torch.from_numpy(reference["wave"]), reference[padding]
    of = AudioFeatures(
        sample_rate=1000, seconds=len(wave) / 1000, n_fft=n_fft, hop_length=hop, padding=padding
    )
    exact = audio.spectrogram(wave[None].double(), of)[0, 0].exp().numpy() - 1e-7
    assert exact.shape == expected.shape
    assert np.allclose(exact, expected, rtol=1e-5, atol=0)
    assert np.allclose(exact, defined(wave.numpy(), n_fft, hop, padding), rtol=1e-5, atol=0)
    single = audio.spectrogram(wave[None], of)[0, 0].exp().numpy() - 1e-7
    assert np.abs(single - expected).max() < 1e-5 * expected.max()
    assert not np.allclose(reference["zeros"], reference["reflect"], rtol=1e-2)


def test_zeros_are_the_default_as_of_the_published_recipes(repository: Path):
    assert AudioFeatures().padding == "zeros"
    for name in ("crema_d", "vggsound"):
        text = (repository / f"conf/base/parameters_{name}.yml").read_text("utf-8")
        audio_of = yaml.safe_load(text)["datasets"][name]["modalities"]["audio"]
        assert audio_of.get("padding", "zeros") == "zeros"


def test_the_mel_bank_sums_magnitudes():
    """Triangles of peak one, equally spaced on the HTK mel scale, computed anew here."""
    of = AudioFeatures(sample_rate=8000, seconds=0.2, n_fft=256, hop_length=128, n_mels=12)
    waves = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 1600)))
    linear = audio.spectrogram(waves, of.model_copy(update={"n_mels": 0})).exp().numpy()[:, 0] - 1e-7
    mel = np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 14)
    corners = 700 * (10 ** (mel / 2595) - 1)
    hz = np.linspace(0, 4000, 129)
    bank = np.array([np.interp(hz, corners[k : k + 3], [0, 1, 0]) for k in range(12)])
    expected = np.log(bank @ linear + 1e-7)
    found = audio.spectrogram(waves, of)
    assert tuple(found.shape[1:]) == audio.Audio(of).spec([], Path()).shape == (1, 12, 13)
    assert np.allclose(found[:, 0].numpy(), expected, atol=1e-4)


def test_silence_has_the_floor():
    assert torch.allclose(audio.spectrogram(torch.zeros(1, 4000), PLAIN), torch.tensor(math.log(1e-7)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seconds": 0.01},
            r"modalities.voice: 0.01 s at 8000 Hz are 80 samples; n_fft=256 needs more than 128",
        ),
        ({"n_mels": 130}, r"modalities.voice.n_mels=130 is too many for n_fft=256 \(129 frequencies\)"),
        ({"n_mels": 120}, r"modalities.voice.n_mels=120 is too many"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_impossible_settings_are_refused(changes: dict[str, float], message: str):
    with pytest.raises(ConfigError, match=message):
        audio.Audio(PLAIN.model_copy(update=changes)).check("voice", None, [])


def test_usual_settings_pass():
    for of in (PLAIN, AudioFeatures(), AudioFeatures(sample_rate=8000, n_fft=256, hop_length=256, n_mels=32)):
        audio.Audio(of).check("audio", None, [])


def test_real_recordings(shared_data: Path):
    files = sorted((shared_data / "fsdd/recordings").glob("7_*_1*.wav"))[:8]
    of = AudioFeatures(sample_rate=8000, n_fft=256, hop_length=128)
    waves = torch.stack([prepare_wave(*read_audio(f), of, f.name) for f in files])
    values = audio.spectrogram(waves, of)
    assert values.shape == (8, 1, 129, 63)
    assert torch.isfinite(values).all()
    assert waves.abs().amax(dim=1).tolist() == pytest.approx([1.0] * 8)
