"""A recording → a log-magnitude spectrogram, in the order of steps that `config.AudioFeatures` documents.

soundfile decodes; what it does not know (videos, AAC, …) PyAV does."""

import hashlib
import math
import re
import struct
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import soundfile
import torch
import torchaudio
from torch import Tensor

from g2d_pipeline.config import AudioFeatures
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.features.cells import is_row, open_cell
from g2d_pipeline.features.containers import count_sound, read_sound, tells_all, video_header
from g2d_pipeline.features.faults import MediaError, check_file, decoding
from g2d_pipeline.features.files import Array, Rows
from g2d_pipeline.features.kinds.base import ArraySpec, Corruption, FileKind, Findings, Item

FLOOR = 1e-7  # of a magnitude, before its logarithm
ENDLESS = 2**62  # samples
STREAMED = 0x7FFFF000  # sizes from here on are written by programs that do not know the length of a stream
MAX_TAPS = 2**27  # of a resampling filter: half a gigabyte
UNKNOWN = {1, 4, 161}  # libsndfile's errors: the format, its encoding, or that of FLAC in Ogg
PLAIN = struct.Struct("<4sI8sIHHIIHH4sI")  # the usual 44 bytes before the samples of a WAV
SIZES = re.compile(r"^\s*(data|FORM) : (\d+) \(should be (\d+)\)", re.M)  # in libsndfile's log of a header
FRAMES = re.compile(r"Calculated frame count (\d+) does not match value from 'ds64' chunk of (\d+)")
FACT = re.compile(r"^fact : 4\n  frames  : (\d+)", re.M)
BATCH = 32  # recordings in one STFT: bounds its memory
TOLERANCE = 1e-3  # seconds: a smaller difference is none

Wave = npt.NDArray[np.float32]


class Audio(FileKind):
    """Recordings, also the sound tracks of videos, as spectrograms `[1, F, T]`."""

    settings: AudioFeatures
    settings_class = AudioFeatures
    plural = "recordings"
    notes: ClassVar[dict[str, str]] = {"constant": "that are silent"}
    endings = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aiff", ".au"})
    keep_bytes = 2**17  # four seconds of speech
    headers = True
    corruptions: ClassVar = {"noise": ("{:g} dB SNR", (20.0, 10.0, 0.0))}

    def check(self, name: str, table: Any, sample_ids: Sequence[str]) -> None:
        """Raise ConfigError, naming the key of modality `name`, where no spectrogram can be made."""
        settings, half, key = self.settings, self.settings.n_fft // 2, f"modalities.{name}"
        if settings.samples <= half:
            raise ConfigError(
                f"{key}: {settings.seconds} s at {settings.sample_rate} Hz are {settings.samples} samples; "
                f"n_fft={settings.n_fft} needs more than {half}. Raise seconds or lower n_fft."
            )
        bank = _mel_bank(settings.n_fft, settings.n_mels, settings.sample_rate) if settings.n_mels else None
        if bank is not None and not bank.any(dim=0).all():
            raise ConfigError(
                f"{key}.n_mels={settings.n_mels} is too many for n_fft={settings.n_fft} ({half + 1} "
                "frequencies): some bands would hold no frequency. Lower n_mels, raise n_fft, or set "
                "n_mels=0 for the linear spectrogram."
            )

    def spec(self, cells: Sequence[str], root: Path) -> ArraySpec:
        frequencies = self.settings.n_mels or self.settings.n_fft // 2 + 1
        return ArraySpec((1, frequencies, self.settings.frames), self.settings.dtype)

    def reusable(self, spec: ArraySpec) -> bool:
        return True

    def decode(
        self, items: Iterable[Item], root: Path, spec: ArraySpec, values: Array, findings: Findings
    ) -> None:
        items = iter(items)
        while part := list(islice(items, BATCH)):
            waves = torch.zeros(len(part), self.settings.samples)
            for (k, cell, content), row in zip(part, waves.numpy(), strict=True):
                with findings.decoding(k, root / cell):
                    wave, rate = read_recording(cell, root, self.settings, content)
                    if is_silent(wave, rate, self.settings):
                        findings.notes["constant"][k] = 1
                    put(wave, rate, self.settings, cell, row)
            ready = finish(waves, self.settings, [cell for _, cell, _ in part])
            values[[k for k, _, _ in part]] = spectrogram(ready, self.settings).numpy()

    def corrupt(self, values: Array, corruption: Corruption, rng: np.random.Generator) -> Array:
        """White noise in each spectrogram, so many dB below the spectrogram's own mean power.

        A complex Gaussian number is added to each magnitude: as the STFT's own phase is independent of the
        noise's, magnitudes are distributed as those of a recording with noise (exactly without mel bands)."""
        magnitude = np.exp(values.astype(np.float32))
        power = np.square(magnitude).mean(axis=(1, 2, 3), keepdims=True)
        sigma = np.sqrt(power * 10 ** (-corruption.strength / 10) / 2, dtype=np.float32)
        real, imaginary = (sigma * rng.standard_normal(values.shape, np.float32) for _ in range(2))
        noisy: Array = np.hypot(magnitude + real, imaginary)
        return np.log(noisy + np.float32(FLOOR))

    def header(self, path: Path) -> dict[str, float]:
        try:
            info = soundfile.info(path)
        except soundfile.LibsndfileError:
            return video_header(path)
        return {"seconds": _true_seconds(path, info)[0]}

    def split_facts(self, headers: list[dict[str, float]], array: Array, rows: Rows) -> dict[str, Any]:
        """How many recordings are `filled` or `cut` to the settings' seconds."""
        more = [h["seconds"] - self.settings.seconds for h in headers if "seconds" in h]
        return {"filled": sum(s < -TOLERANCE for s in more), "cut": sum(s > TOLERANCE for s in more)}


def read_audio(path: Path, content: bytes | None = None) -> tuple[Wave, int]:
    """Decode a recording: (`[T]` float32, the mean of its channels, full scale = 1; samples per second).

    Of a video, its first sound track. `content`: the file's bytes, where they have been read already. Raises
    MediaError where the file is missing, empty, a Git-LFS pointer, a web page, no sound, truncated (its
    header promises more than it holds), without a sample, or holds values that are not finite."""
    if content is not None and (plain := _plain_wav(content)) is not None:
        return plain
    wave, rate = _decode(path, content)
    if not len(wave):
        raise MediaError(path, "holds no sound: 0 samples")
    return np.ascontiguousarray(_finite(wave, path)), rate


def _finite(wave: Wave, where: Path) -> Wave:
    if bad := int(np.count_nonzero(~np.isfinite(wave))):
        raise MediaError(where, f"holds {bad} samples that are not finite (NaN or infinite)")
    return wave


def _plain_wav(content: bytes) -> tuple[Wave, int] | None:
    """A plain mono WAV of 16 bits, as soundfile decodes it in 20 times as long; None for any other."""
    if len(content) <= PLAIN.size:
        return None
    riff, size, fmt, *form, data, held = PLAIN.unpack_from(content)
    rate = form[3]
    if (riff, fmt, data) != (b"RIFF", b"WAVEfmt ", b"data") or form != [16, 1, 1, rate, 2 * rate, 2, 16]:
        return None
    if not rate or size != len(content) - 8 or held != len(content) - PLAIN.size or held % 2:
        return None
    return np.frombuffer(content, "<i2", offset=PLAIN.size) * np.float32(2**-15), rate


def _decode(path: Path, content: bytes | None) -> tuple[Wave, int]:
    check_file(path, content)
    with decoding(path):
        try:
            file = soundfile.SoundFile(path)
        except soundfile.LibsndfileError as error:
            if error.code in UNKNOWN:
                return read_sound(path)
            raise
        with file:
            _check_header(path, file.extra_info)
            rate, frames = int(file.samplerate), _frames(file)
            seconds, known = _true_seconds(path, file)
            if not known:
                return read_sound(path)
            frames = round(seconds * rate)
            samples = file.read(frames, dtype="float32", always_2d=True)
    if len(samples) < 0.99 * frames:
        raise _truncated(path, frames, len(samples), "samples")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float64)
    return mono.astype(np.float32, copy=False), rate


def _frames(info: Any) -> int:
    """Of a file that libsndfile has opened; what fills up the last block of GSM is none."""
    count = FACT.search(info.extra_info) if info.subtype == "GSM610" else None
    return min(int(info.frames), int(count[1])) if count else int(info.frames)


def _true_seconds(path: Path, info: Any) -> tuple[float, bool]:
    """(length, whether libsndfile decodes all): it knows one of joined recordings, and may guess."""
    seconds = _frames(info) / info.samplerate
    form = "MP3" if str(info.subtype).startswith("MPEG") else info.format
    if form not in ("MP3", "OGG", "FLAC"):
        return seconds, True
    whole, trusted = tells_all(path, form)
    if whole and info.frames < ENDLESS:
        return seconds, True
    held, left_out = count_sound(path)
    if info.frames >= ENDLESS or held > seconds + (left_out if trusted and form != "FLAC" else 0) + TOLERANCE:
        return held, False
    return (seconds if trusted or not held else held), True


def _check_header(path: Path, log: str) -> None:
    """Raise MediaError where libsndfile's log says that the header promises more than the file holds."""
    for chunk, promised, held in SIZES.findall(log):
        rest = 8 if chunk == "FORM" else 0
        if int(held) < int(promised) and (rest or int(promised) < STREAMED):
            raise _truncated(path, int(promised) + rest, int(held) + rest, "bytes")
    if (count := FRAMES.search(log)) and int(count[1]) < int(count[2]):
        raise _truncated(path, int(count[2]), int(count[1]), "samples")


def _truncated(path: Path, promised: int, held: int, unit: str) -> MediaError:
    return MediaError(path, f"is truncated: its header promises {promised} {unit}, it holds {held}")


def read_recording(
    cell: str, root: Path, settings: AudioFeatures, content: bytes | None = None
) -> tuple[Wave, int]:
    """As `read_audio`, for a cell of the manifest.

    A row of an array file is a mono waveform `[T]` at `settings.sample_rate`: floats as they are, signed
    integers divided by their full scale."""
    if not is_row(cell):
        return read_audio(root / cell, content)
    samples = open_cell(cell, root)
    if samples.ndim != 1 or samples.dtype.kind not in "fi" or not len(samples):
        what = f"{samples.dtype} {list(samples.shape)}"
        raise MediaError(root / cell, f"is {what}, not a waveform [T] of floats or signed integers")
    wave = samples.astype(np.float32)
    if samples.dtype.kind == "i":
        wave /= -float(np.iinfo(samples.dtype).min)
    return _finite(wave, root / cell), settings.sample_rate


def is_silent(wave: Tensor | Wave, rate: int, settings: AudioFeatures) -> bool:
    """Whether the part of a decoded recording `[T]` that is kept is one constant."""
    kept = wave[: max(1, round(settings.seconds * rate))]
    return bool(kept.min() == kept.max())


def put(wave: Wave, rate: int, settings: AudioFeatures, key: str, into: Wave) -> None:
    """A decoded recording `[T']` at `rate` Hz, resampled, cut or repeated, into zeros `into` `[T]`.

    Raises MediaError, which names `key`, where its rate can not be resampled from."""
    wave = resample(torch.from_numpy(wave), rate, settings.sample_rate, key).numpy()[: len(into)]
    if settings.fill == "repeat":
        wave = np.tile(wave, math.ceil(len(into) / len(wave)))[: len(into)]
    into[: len(wave)] = wave


def finish(waves: Tensor, settings: AudioFeatures, keys: Sequence[str]) -> Tensor:
    """`[B, T]` of filled recordings, clamped, peak-normalised, noisy. Silence is zero before the noise, a
    function of `noise_seed` and `keys` alone: the recordings' paths relative to the raw root."""
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
    """Band-limited (windowed sinc, torchaudio's defaults): `[T]` at `rate` Hz → `[T·to/rate]`."""
    if rate == to:
        return wave
    if math.lcm(rate, to) // math.gcd(rate, to) > MAX_TAPS:
        reason = f"has the sample rate {rate} Hz, which shares no factor with {to} Hz: resample it first"
        raise MediaError(key, reason)
    resampled: Tensor = _resampler(rate, to)(wave)
    return resampled


@lru_cache(maxsize=8)
def _resampler(rate: int, to: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(rate, to)


def white_noise(seed: int, key: str, samples: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Standard normal `[samples]` from a generator of its own, seeded by blake2b(seed, key)."""
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(errors="surrogateescape"), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(samples, dtype=np.float32)


def spectrogram(waves: Tensor, settings: AudioFeatures) -> Tensor:
    """Waves `[B, T]` → log(|STFT| + 1e-7) `[B, 1, F, frames]`; low frequencies first.

    librosa's stft: periodic Hann window of `n_fft`, frames centred at 0, hop, 2 · hop, …, `padding` beyond
    the ends, no scaling. `n_mels` > 0: the magnitudes are summed by torchaudio's mel bank (HTK scale, 0 Hz to
    half the sample rate, peak 1). Source: datasets.md §1.3."""
    window = torch.hann_window(settings.n_fft, dtype=waves.dtype)
    padding = "reflect" if settings.padding == "reflect" else "constant"
    options: Any = {"window": window, "center": True, "pad_mode": padding, "return_complex": True}
    magnitude = torch.stft(waves, settings.n_fft, settings.hop_length, **options).abs()
    if settings.n_mels:
        bank = _mel_bank(settings.n_fft, settings.n_mels, settings.sample_rate)
        magnitude = bank.T.to(magnitude) @ magnitude
    return magnitude.add_(FLOOR).log_().unsqueeze(1)


@lru_cache(maxsize=8)
def _mel_bank(n_fft: int, n_mels: int, sample_rate: int) -> Tensor:
    """`[n_fft // 2 + 1, n_mels]`, without torchaudio's warning: `Audio.check` refuses empty bands."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filterbank")
        limits, bins = (0.0, sample_rate / 2), n_fft // 2 + 1
        bank: Tensor = torchaudio.functional.melscale_fbanks(bins, *limits, n_mels, sample_rate)
    return bank
