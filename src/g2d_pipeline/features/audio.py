"""A recording → a log-magnitude spectrogram; pure functions, in the order that `config.AudioFeatures`
documents.

soundfile decodes; what it does not know (films, AAC, …) PyAV does.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import torch
import torchaudio
from torch import Tensor

from g2d_pipeline.config import AudioFeatures
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.features.cells import read_row, split_cell
from g2d_pipeline.features.containers import read_sound
from g2d_pipeline.features.faults import MediaError, check_content, check_file

FLOOR = 1e-7  # of a magnitude, before its logarithm
STREAMED = 0x7FFFF000  # sizes from here on are what programs write that do not know the length of a stream
MOST_TAPS = 2**27  # of a resampling filter: half a gigabyte
UNKNOWN = {1, 4}  # libsndfile's errors: the format, or its encoding, is not recognised
PLAIN = struct.Struct("<4sI8sIHHIIHH4sI")  # the usual 44 bytes before the samples of a WAV


def check_settings(settings: AudioFeatures, name: str = "audio") -> None:
    """Raise ConfigError, naming the key of modality `name`, where no spectrogram can be made with these
    settings."""
    bins = settings.n_fft // 2 + 1
    key = f"modalities.{name}"
    if length(settings) <= settings.n_fft // 2:
        raise ConfigError(
            f"{key}: {settings.seconds} s at {settings.sample_rate} Hz are {length(settings)} samples; "
            f"n_fft={settings.n_fft} needs more than {settings.n_fft // 2}. Raise seconds or lower n_fft."
        )
    if (
        settings.n_mels
        and not _mel_bank(settings.n_fft, settings.n_mels, settings.sample_rate).any(dim=0).all()
    ):
        raise ConfigError(
            f"{key}.n_mels={settings.n_mels} is too many for n_fft={settings.n_fft} ({bins} frequencies): some bands "
            f"would hold no frequency. Lower n_mels, raise n_fft, or set n_mels=0 for the linear spectrogram."
        )


def length(settings: AudioFeatures) -> int:
    """T: the number of samples of every prepared recording."""
    return settings.samples


def shape(settings: AudioFeatures) -> tuple[int, int, int]:
    """(1, F, frames) of the spectrogram of one recording."""
    return 1, settings.n_mels or settings.n_fft // 2 + 1, settings.frames


def read_audio(path: Path, content: bytes | None = None) -> tuple[Tensor, int]:
    """Decode a whole recording: (`[T]` float32, the mean of its channels, full scale = 1; samples per
    second).

    Of a film, its first sound track. `content`: the file's bytes, where they have been read already. Raises
    MediaError where the file is missing, empty, a Git-LFS pointer, a web page, no sound, truncated (its
    header promises more than it holds), without a sample, or holds values that are not finite."""
    wave, rate = _read(path, content)
    return torch.from_numpy(wave), rate


def _read(path: Path, content: bytes | None) -> tuple[npt.NDArray[np.float32], int]:
    """As `read_audio`, as an array."""
    if content is not None and (plain := _plain_wav(content)) is not None:
        return plain
    wave, rate = _decode(path, content)
    if not len(wave):
        raise MediaError(path, "holds no sound: 0 samples")
    if bad := int(np.count_nonzero(~np.isfinite(wave))):
        raise MediaError(path, f"holds {bad} samples that are not finite (NaN or infinite)")
    return np.ascontiguousarray(wave), rate


def _plain_wav(content: bytes) -> tuple[npt.NDArray[np.float32], int] | None:
    """As soundfile decodes it, a WAV of one channel of 16 bits with nothing but samples after its usual
    header.

    Of short recordings this takes a twentieth of the time. None: it is not quite that, soundfile knows.
    """
    if len(content) <= PLAIN.size:
        return None
    riff, length, fmt, size, code, channels, rate, speed, align, bits, data, held = PLAIN.unpack_from(content)
    named = (riff, fmt, data) == (b"RIFF", b"WAVEfmt ", b"data")
    whole = length == len(content) - 8 and held == len(content) - PLAIN.size and held % 2 == 0
    if (
        not named
        or not whole
        or not rate
        or (size, code, channels, speed, align, bits) != (16, 1, 1, 2 * rate, 2, 16)
    ):
        return None
    return np.frombuffer(content, "<i2", offset=PLAIN.size) * np.float32(2**-15), rate


def _decode(path: Path, content: bytes | None) -> tuple[npt.NDArray[np.float32], int]:
    if content is None:
        check_file(path)
    else:
        check_content(path, content)
    try:
        if promised := _promised_bytes(path, content):
            raise MediaError(
                path, f"is truncated: its header promises {promised[0]} bytes, it holds {promised[1]}"
            )
        with soundfile.SoundFile(path) as file:
            rate, frames = int(file.samplerate), int(file.frames)
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, struct.error) as error:
        if isinstance(error, soundfile.LibsndfileError) and error.code in UNKNOWN:
            return read_sound(path)
        raise MediaError(
            path, f"can not be decoded ({str(error).strip() or type(error).__name__})"
        ) from error
    if len(samples) < 0.99 * frames:  # the header of an MP3 may only estimate its length
        raise MediaError(path, f"is truncated: its header promises {frames} samples, it holds {len(samples)}")
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float64).astype(
        np.float32
    ), rate


def read_recording(
    cell: str, root: Path, settings: AudioFeatures, content: bytes | None = None
) -> tuple[npt.NDArray[np.float32], int]:
    """As `read_audio`, for a cell of the manifest, as an array.

    A row of an array file is a mono waveform `[T]` at `settings.sample_rate`: floats as they are, signed
    integers divided by their full scale."""
    file, row = split_cell(cell)
    if row is None:
        return _read(root / file, content)
    samples = read_row(root / file, row)
    if samples.ndim != 1 or samples.dtype.kind not in "fi" or not len(samples):
        found = f"{samples.dtype} {list(samples.shape)}"
        raise MediaError(root / cell, f"is {found}, not a waveform [T] of floats or signed integers")
    wave = samples.astype(np.float32)
    if samples.dtype.kind == "i":
        wave /= -float(np.iinfo(samples.dtype).min)
    if bad := int(np.count_nonzero(~np.isfinite(wave))):
        raise MediaError(root / cell, f"holds {bad} samples that are not finite (NaN or infinite)")
    return wave, settings.sample_rate


def is_silent(wave: Tensor | npt.NDArray[np.float32], rate: int, settings: AudioFeatures) -> bool:
    """Whether the part of a decoded recording `[T]` that is kept is one constant: silence, or a dead
    microphone."""
    kept = wave[: max(1, round(settings.seconds * rate))]
    return bool(kept.min() == kept.max())


def prepare_wave(wave: Tensor, rate: int, settings: AudioFeatures, key: str) -> Tensor:
    """A decoded recording `[T']` at `rate` Hz → `[T]` float32: resampled, cut or filled up, clamped,
    peak-normalised, noisy.

    The noise is a function of (`noise_seed`, `key`) alone; `key` is the recording's path relative to the raw
    root. Silence stays zero before the noise. Raises MediaError where a rate can not be resampled from."""
    waves = torch.zeros(1, length(settings))
    put(wave.numpy(), rate, settings, key, waves[0].numpy())
    return finish(waves, settings, [key])[0]


def put(
    wave: npt.NDArray[np.float32], rate: int, settings: AudioFeatures, key: str, into: npt.NDArray[np.float32]
) -> None:
    """A decoded recording `[T']`, resampled, cut or repeated, into the start of `into` `[T]`. Raises
    MediaError."""
    if rate != settings.sample_rate:
        wave = resample(torch.from_numpy(wave), rate, settings.sample_rate, key).numpy()
    wave = wave[: len(into)]
    if settings.fill == "repeat":
        wave = np.tile(wave, math.ceil(len(into) / len(wave)))[: len(into)]
    into[: len(wave)] = wave


def finish(waves: Tensor, settings: AudioFeatures, keys: Sequence[str]) -> Tensor:
    """`[B, T]` of recordings that are filled up, clamped, peak-normalised, noisy; `keys` as in
    `prepare_wave`."""
    if settings.clamp:
        waves = waves.clamp(-1, 1)
    if settings.peak_normalise:
        peaks = waves.abs().amax(dim=1, keepdim=True)
        waves = waves / torch.where(peaks > 0, peaks, 1)
    if settings.noise > 0:
        noise = np.stack([white_noise(settings.noise_seed, key, waves.shape[1]) for key in keys])
        waves = waves + settings.noise * torch.from_numpy(noise)
    return waves


def resample(wave: Tensor, rate: int, to: int, key: str = "the recording") -> Tensor:
    """Band-limited (windowed sinc, torchaudio's defaults): nothing above half the lower rate is left;
    `[T·to/rate]`."""
    if rate == to:
        return wave
    common = math.gcd(rate, to)
    if (rate // common) * (to // common) > MOST_TAPS:
        raise MediaError(
            key, f"has the sample rate {rate} Hz, which shares no factor with {to} Hz: resample it first"
        )
    resampled: Tensor = _resampler(rate, to)(wave)
    return resampled


@lru_cache(maxsize=8)
def _resampler(rate: int, to: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(rate, to)


def white_noise(seed: int, key: str, samples: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Standard normal `[samples]` from a generator seeded by blake2b(seed, key): no order or process changes
    it."""
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(errors="surrogateescape"), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(samples, dtype=np.float32)


def spectrogram(waves: Tensor, settings: AudioFeatures) -> Tensor:
    """Waves `[B, T]` → log(|STFT| + 1e-7) `[B, 1, F, frames]` as `shape` says; low frequencies first.

    librosa's stft: periodic Hann window of `n_fft`, frames centred at 0, hop, 2 · hop, …, `padding` beyond
    the ends, no scaling. `n_mels` > 0: the magnitudes are summed by torchaudio's mel bank (HTK scale, 0 Hz to
    half the sample rate, peak 1). Source: datasets.md §1.3."""
    window = torch.hann_window(settings.n_fft, dtype=waves.dtype)
    mode = "reflect" if settings.padding == "reflect" else "constant"
    magnitude = torch.stft(
        waves,
        settings.n_fft,
        settings.hop_length,
        window=window,
        center=True,
        pad_mode=mode,
        return_complex=True,
    ).abs()
    if settings.n_mels:
        magnitude = (
            _mel_bank(settings.n_fft, settings.n_mels, settings.sample_rate).T.to(magnitude) @ magnitude
        )
    return magnitude.add_(FLOOR).log_().unsqueeze(1)


@lru_cache(maxsize=8)
def _mel_bank(n_fft: int, n_mels: int, sample_rate: int) -> Tensor:
    """`[n_fft // 2 + 1, n_mels]`, without torchaudio's warning: `check_settings` refuses empty bands."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filterbank")
        bank: Tensor = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate
        )
    return bank


def _promised_bytes(path: Path, content: bytes | None) -> tuple[int, int] | None:
    """(promised, held) where the header of a WAV or AIFF promises more than the file holds, which decoders
    hide."""
    if content is not None:
        return _promised(io.BytesIO(content), len(content))
    with path.open("rb") as file:
        return _promised(file, path.stat().st_size)


def _promised(file: BinaryIO, size: int) -> tuple[int, int] | None:
    head = file.read(12)
    if head[:4] == b"FORM":
        promised = int.from_bytes(head[4:8], "big") + 8
        return (promised, size) if promised > size else None
    if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        return None
    long: int | None = None
    while len(header := file.read(8)) == 8:
        name, chunk = struct.unpack("<4sI", header)
        if name == b"ds64":
            long = struct.unpack_from("<Q", file.read(chunk), 8)[0]
        elif name == b"data":
            promised = chunk if chunk < STREAMED else long or 0
            held = size - file.tell()
            return (promised, held) if promised > held else None
        else:
            file.seek(chunk + chunk % 2, 1)
    return None
