"""A simulated VGGSound folder (datasets.md §3.6): sounds tell the class well, images less well."""

import colorsys
import string
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import soundfile
from PIL import Image, ImageDraw

from g2d_pipeline.sources.simulated import write_video

CLASSES = (
    "airplane", "ambulance siren", "basketball bounce", "bird chirping, tweeting", "car engine starting",
    "dog barking", "people clapping", "playing acoustic guitar", "rapping", "waterfall burbling",
)  # fmt: skip
SHARES = (11, 11, 10, 10, 9, 9, 8, 8, 7, 7)  # of train: the real classes differ in size, too
TEST, MISSING = 0.25, 0.1  # shares of the list
RATE, SECONDS = 16_000, 10
WIDTH, HEIGHT, HELD = 64, 48, 10  # HELD: frames that one drawing lasts
FPS = (Fraction(25), Fraction(24_000, 1001))
ALPHABET = string.ascii_letters + string.digits + "-_"

Fault = Literal["missing", "short", "mute", "no sound track", "three frames"]
FAULTS: tuple[Fault, ...] = ("short", "mute", "no sound track", "three frames")
Form = Literal["video", "extracted", "milliseconds", "unpadded"]
Wave = npt.NDArray[np.float32]


@dataclass
class Row:
    """One line of the list, and the form of its file."""

    video: str
    start: int
    label: int
    split: Literal["train", "test"]
    fault: Fault | None = None
    form: Form = "video"

    @property
    def name(self) -> str:
        return f"{self.video}_{self.start:06d}"

    @property
    def file_name(self) -> str:
        if self.form == "milliseconds":
            return f"{self.video}_{self.start * 1000}_{(self.start + SECONDS) * 1000}"
        return f"{self.video}_{self.start}" if self.form == "unpadded" else self.name


def make(folder: Path, clips: int, seed: int) -> None:
    """Write `vggsound.csv` (without a header), MP4 videos, and a few clips as extracted audio and images,
    into the existing folder; equal arguments give equal bytes (with one version of FFmpeg).

    `clips`: rows of the list. A tenth of them have no file; one has no sound track, one only three frames."""
    rows = list_rows(clips, seed)
    table = pd.DataFrame([(row.video, row.start, CLASSES[row.label], row.split) for row in rows])
    table.to_csv(folder / "vggsound.csv", header=False, index=False, lineterminator="\n")
    (folder / "video").mkdir()
    for number, row in enumerate(rows):
        if row.fault == "missing":
            continue
        rng = np.random.default_rng([seed, 1, number])
        seconds = 4 if row.fault == "short" else SECONDS
        fps = FPS[number % 2]
        count = 3 if row.fault == "three frames" else round(seconds * fps)
        drawings, order = draw(row.label, -(-count // HELD), rng), [k // HELD for k in range(count)]
        sound = None if row.fault == "no sound track" else play(row.label, seconds, rng)
        if sound is not None and row.fault == "mute":
            sound = np.zeros_like(sound)
        path = folder / f"video/{row.file_name}.mp4"
        if row.form == "extracted" and sound is not None:
            _write_extracted(folder, row, sound, [drawings[k] for k in order[:: int(fps)]], int(fps))
        elif not path.exists():  # a disk without upper and lower case holds one of two clips
            track = None if sound is None else (sound, RATE)
            write_video(path, drawings, order, fps, {"g": "25", "qscale": "6"}, track)


def list_rows(clips: int, seed: int) -> list[Row]:
    """The lines of the list in random order, with the blemishes of real copies."""
    rng = np.random.default_rng([seed, 0])
    tests = max(len(CLASSES), round(clips * TEST))
    turn = sorted(((k + 0.5) / share, c) for c, share in enumerate(SHARES) for k in range(share))
    turns = [label for _, label in turn] * (clips // len(turn) + 1)  # any beginning has the classes' shares
    labels = [n % len(CLASSES) for n in range(tests)] + turns[: clips - tests]
    videos = _ids(clips, rng)
    starts = [int(rng.integers(0, 400)) for _ in labels]
    parts: list[Literal["train", "test"]] = ["test" if n < tests else "train" for n in range(clips)]
    rows = [Row(*line) for line in zip(videos, starts, labels, parts, strict=True)]
    for k in range(round(clips * MISSING)):  # classes take turns, and keep a clip in each split
        present = [row for row in rows if row.label == k % len(CLASSES) and row.fault is None]
        spare = [row for row in present if sum(other.split == row.split for other in present) > 1]
        spare[int(rng.integers(len(spare)))].fault = "missing"
    whole = [row for row in rows[tests:] if row.fault is None]
    whole[0].fault, whole[1].fault, whole[2].fault, whole[3].fault = FAULTS
    plain = whole[len(FAULTS) :]
    plain[0].form, plain[1].form = "milliseconds", "unpadded"
    for row in plain[2::16]:
        row.form = "extracted"
    plain[3].video = plain[4].video  # a video that gives two clips
    plain[3].start, plain[4].start = 30, 170
    plain[5].video = plain[6].video.swapcase()
    plain[7].video = rows[0].video  # a video in train and in test
    plain[7].start = rows[0].start + 40
    return [rows[k] for k in rng.permutation(clips)]


def play(label: int, seconds: float, rng: np.random.Generator) -> Wave:
    """A sound `[seconds × 16,000]` in [-1, 1]: the class's chord and beat, a weaker one of another, noise."""
    t = np.arange(round(seconds * RATE)) / RATE
    other = int(rng.integers(len(CLASSES)))
    wave = _chord(label, t, rng) + rng.uniform(0, 0.5) * _chord(other, t, rng)
    wave = wave / np.sqrt(np.mean(wave**2)) + rng.uniform(0.3, 1.5) * rng.normal(0, 1, len(t))
    return np.asarray(0.7 * rng.uniform(0.2, 1) * wave / np.abs(wave).max(), np.float32)


def draw(label: int, count: int, rng: np.random.Generator) -> list[Image.Image]:
    """`count` drawings 64 × 48: a shape of the class's own corners and colour moves among three others."""
    wall = (int(rng.uniform(30, 225)),) * 3
    x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
    step = rng.uniform(-3, 3, 2)
    size = rng.uniform(9, 14)
    colour = _colour(label / len(CLASSES) + rng.normal(0, 0.04))
    box = (WIDTH, HEIGHT)
    others = [(rng.uniform(0, box), rng.uniform(4, 9), rng.integers(3, 9), rng.uniform()) for _ in range(3)]
    drawings = []
    for _ in range(count):
        image = Image.new("RGB", box, wall)
        pen = ImageDraw.Draw(image)
        for place, radius, corners, hue in others:
            pen.regular_polygon((*place, radius), int(corners), fill=_colour(hue))
        x, y = (x + step[0]) % WIDTH, (y + step[1]) % HEIGHT
        pen.regular_polygon((x, y, size), 3 + label % 4, rotation=int(rng.integers(0, 90)), fill=colour)
        drawings.append(image)
    return drawings


# ----------------------------------------------------------------------------------------------------- pieces
def _ids(count: int, rng: np.random.Generator) -> list[str]:
    """Different ids of 11 characters; some begin with dashes, as real ones do, some hold an underscore."""
    ids = ["".join(ALPHABET[k] for k in rng.integers(0, len(ALPHABET), 11)) for _ in range(count)]
    ids = [f"-{v[1:]}" if n % 15 == 1 else f"{v[:4]}_{v[5:]}" if n % 9 == 2 else v for n, v in enumerate(ids)]
    ids[0] = f"---{ids[0][3:]}"
    assert len({v.casefold() for v in ids}) == count
    return ids


def _chord(label: int, t: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    base = 220.0 * 2 ** (label * 0.31 + rng.normal(0, 0.03))
    ratios = (1.0, 1.5 + 0.25 * (label % 3), 3.0)
    tones = sum(np.sin(2 * np.pi * base * k * t + rng.uniform(0, 6)) / k for k in ratios)
    beat = 0.2 + np.abs(np.sin(np.pi * (0.5 + 0.45 * label) * t + rng.uniform(0, 3))) ** 2
    return np.asarray(tones * beat)


def _colour(hue: float) -> tuple[int, ...]:
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue % 1, 0.85, 0.9))


def _write_extracted(folder: Path, row: Row, sound: Wave, images: Sequence[Image.Image], step: int) -> None:
    """The audio and one image a second (each `step` frames), as the authors' scripts extract them."""
    audio = folder / "audio" / row.split
    pictures = folder / "video/frames" / row.split / "Image-01-FPS" / row.name
    for path in (audio, pictures):
        path.mkdir(parents=True, exist_ok=True)
    soundfile.write(audio / f"{row.name}.wav", sound, RATE, subtype="PCM_16")
    for k, image in enumerate(images):
        image.save(pictures / f"{k * step:05d}.jpg", quality=90)
