"""A simulated CREMA-D folder (datasets.md §1.6): voices are learned soon, faces late and then better."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pandas as pd
import soundfile
from PIL import Image, ImageDraw

from g2d_pipeline.sources.crema_d.clips import AUDIO, EMOTIONS, IMAGES, SENTENCES, VIDEO, Clip
from g2d_pipeline.sources.simulated import write_video

LEVELS = ("LO", "MD", "HI")  # of sentence IEO; XX elsewhere, and where the emotion is neutral
ACTORS = 6
RATE, FPS = 16_000, Fraction(30_000, 1001)
STEP = 29  # the frame rate rounded down, as the field extracts images
CODEC = {"g": "60", "qscale": "5", "b": "120000"}
WIDTH, HEIGHT = 160, 120
TEST = 0.2
MOUTHS = 4  # drawings of a clip: the mouth opens and closes
LITTER = b"\0\0\0\1Bud1"
#          pitch, syllables/s, loudness, brightness of the voice
VOICES = {
    "NEU": (1.00, 3.4, 0.10, 1.5),
    "HAP": (1.35, 4.6, 0.18, 1.1),
    "SAD": (0.86, 2.2, 0.05, 2.0),
    "FEA": (1.60, 5.4, 0.12, 1.3),
    "DIS": (0.92, 2.9, 0.13, 1.0),
    "ANG": (1.20, 4.0, 0.30, 0.8),
}
# corners of the mouth up, openness, brows up, brows towards the nose, flush of the skin, size, head down
FACES = {
    "NEU": (0.0, 0.2, 0.0, 0.0, 0.0, 1.00, 0.0),
    "HAP": (1.0, 0.6, 0.3, 0.0, 0.3, 1.05, -0.6),
    "SAD": (-1.0, 0.1, 0.2, -0.9, -0.5, 0.92, 1.0),
    "FEA": (-0.3, 1.2, 1.0, -0.5, -1.0, 0.80, -0.3),
    "DIS": (-0.7, 0.3, -0.5, 0.5, 0.0, 0.95, -1.0),
    "ANG": (-0.5, 0.8, -1.0, 1.0, 1.0, 1.20, 0.3),
}


def make(folder: Path, clips: int, seed: int, film: str | None = None) -> None:
    """Write WAV and FLV files, tables and the two lists of a split into the existing folder; equal arguments
    give equal bytes (with one version of FFmpeg).

    `film`: `flv`; or `mp4`, which is taken where FLV can not be encoded: then images of it are there, too."""
    film = film or ("flv" if _encodes("flv") else "mp4")
    for name in (AUDIO, VIDEO, "processedResults"):
        (folder / name).mkdir()
        (folder / name / ".DS_Store").write_bytes(LITTER)
    chosen = _clips(clips)
    lengths = _seconds(len(chosen), np.random.default_rng([seed, 1]))
    for k, (clip, seconds) in enumerate(zip(chosen, lengths, strict=True)):
        rng = np.random.default_rng([seed, 2, k])
        wave = speak(clip, seconds, rng)
        soundfile.write(folder / f"{AUDIO}/{clip.name}.wav", wave, RATE, subtype="PCM_16")
        drawings = draw(clip, rng)
        order = [round(i * VOICES[clip.emotion][1] / 6) % MOUTHS for i in range(round(seconds * FPS))]
        write_video(folder / f"{VIDEO}/{clip.name}.{film}", drawings, order, FPS, CODEC)
        if film == "mp4":
            images = folder / IMAGES / clip.name
            images.mkdir(parents=True)
            for i in range(0, len(order), STEP):
                drawings[order[i]].save(images / f"{i:05d}.jpg", quality=90)
    _write_tables(folder, chosen)
    _write_lists(folder, chosen, np.random.default_rng([seed, 3]))


def speak(clip: Clip, seconds: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A voice `[seconds × 16,000]` in [-1, 1], of noise and harmonics that tell the emotion."""
    pitch, tempo, loudness, slope = VOICES[clip.emotion]
    who = np.random.default_rng(int(clip.actor))
    t = np.arange(round(seconds * RATE)) / RATE
    base = who.choice([118.0, 205.0]) * who.uniform(0.93, 1.07) * pitch * rng.normal(1, 0.05)
    pace = tempo * rng.normal(1, 0.08)
    melody = base * (1 + 0.05 * np.sin(2 * np.pi * 0.6 * pace * t + rng.uniform(0, 6)) - 0.06 * t / seconds)
    phase = 2 * np.pi * np.cumsum(melody) / RATE
    harmonics = np.arange(1, 13)
    weights = harmonics**-slope * np.exp(-(((harmonics * base - rng.uniform(500, 900)) / 1800) ** 2))
    voice = sum(w * np.sin(h * phase + rng.uniform(0, 6)) for h, w in zip(harmonics, weights, strict=True))
    voice = voice * np.abs(np.sin(np.pi * pace * t + rng.uniform(0, 3))) ** 1.5
    voice *= loudness * np.exp(rng.normal(0, 0.35)) / np.sqrt(np.mean(voice**2))
    noisy: npt.NDArray[np.float64] = np.clip(voice + rng.normal(0, 0.02, len(t)), -1, 1)
    return noisy


def draw(clip: Clip, rng: np.random.Generator) -> list[Image.Image]:
    """MOUTHS drawings, 160 × 120, of one face: the actor tells its colours, emotion and chance the rest."""
    who = np.random.default_rng(int(clip.actor))
    wall = who.uniform(30, 200, 3)
    skin = np.array([225, 185, 158]) * who.uniform(0.55, 1) + who.normal(0, 6, 3)
    face = np.array(FACES[clip.emotion]) + rng.normal(0, 1, 7) * (0.16, 0.16, 0.16, 0.16, 0.3, 0.06, 0.3)
    corners, openness, brows, frown, flush, size, down = (float(v) for v in face)
    skin = skin + 45 * flush * np.array([0.6, -1, -1])
    x, y = WIDTH / 2 + rng.normal(0, 5), HEIGHT / 2 + 8 * down
    fill, back = (tuple(int(v) for v in np.clip(colour, 0, 255)) for colour in (skin, wall))
    dark = (40, 25, 25)

    def box(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        return x + size * left, y + size * top, x + size * right, y + size * bottom

    def drawing(mouth: float) -> Image.Image:
        image = Image.new("RGB", (WIDTH, HEIGHT), back)
        pen = ImageDraw.Draw(image)
        pen.ellipse(box(-42, -52, 42, 52), fill=fill, outline=dark)
        for side in (-1, 1):
            pen.ellipse(box(17 * side - 7, -17, 17 * side + 7, -7), fill=(250, 250, 250), outline=dark)
            pen.ellipse(box(17 * side - 3, -15, 17 * side + 3, -9), fill=dark)
            height = -25 - 6 * brows
            pen.line(box(8 * side, height + 6 * frown, 27 * side, height - 4 * frown), fill=dark, width=4)
        steps = np.linspace(-1, 1, 13)
        curve = 25 - 11 * corners * (steps**2 - 0.5)
        gap = (1.5 + 11 * mouth) * (1 - steps**2)
        lips = [*zip(steps, curve - gap, strict=True), *zip(steps[::-1], (curve + gap)[::-1], strict=True)]
        outline = [(x + size * 20 * s, y + size * h) for s, h in lips]
        pen.polygon(outline, fill=(120, 20, 30), outline=dark)
        return image

    return [drawing(max(openness, 0) * (0.4 + 0.6 * m / (MOUTHS - 1))) for m in range(MOUTHS)]


def _clips(count: int) -> list[Clip]:
    """`count` clips, as many of each actor (± 1), who begin with IEO: an emotion each at one level."""
    each = len(SENTENCES) * 6 + 10
    takes: list[list[str]] = []
    for actor in range(1001, 1001 + max(ACTORS, math.ceil(count / each))):
        level = {e: LEVELS[(actor + k) % 3] for k, e in enumerate(EMOTIONS)} | {"NEU": "XX"}
        names = [f"IEO_{e}_{level[e]}" for e in EMOTIONS]
        names += [f"{s}_{e}_XX" for s in SENTENCES[1:] for e in EMOTIONS]
        names += [f"IEO_{e}_{h}" for e in EMOTIONS[1:] for h in LEVELS if h != level[e]]
        takes.append([f"{actor}_{name}" for name in names])
    chosen = [name for turn in zip(*takes, strict=True) for name in turn][:count]
    return [clip for name in sorted(chosen) if (clip := Clip.parse(name))]


def _seconds(count: int, rng: np.random.Generator) -> list[float]:
    """Lengths between CREMA-D's extremes, 1.27 s and 5 s, but shorter on average: the sample is small."""
    lasts = np.clip(1.9 * np.exp(rng.normal(0, 0.22, count)), 1.27, 3.4)
    lasts[:4] = 1.27, 2.4, 3.2, 5.0
    return [round(float(s), 3) for s in rng.permutation(lasts)]


def _encodes(codec: str) -> bool:
    try:
        return bool(av.codec.Codec(codec, "w").is_encoder)
    except av.codec.codec.UnknownCodecError:
        return False


def _write_tables(folder: Path, clips: Sequence[Clip]) -> None:
    rng = np.random.default_rng(0)
    rows, names = range(1, len(clips) + 1), [clip.name for clip in clips]
    people: list[tuple[object, ...]] = []
    for actor in sorted({clip.actor for clip in clips}):
        sex = ("Female", "Male")[int(rng.integers(2))]
        people.append((actor, int(rng.integers(20, 75)), sex, "Unknown", "Not Hispanic"))
    columns = [f"{m}{what}" for m in ("Voice", "Face", "MultiModal") for what in ("Vote", "Level")]
    votes = [(clip.name, *(clip.emotion[0], 60) * 3) for clip in clips]
    tables = {
        "SentenceFilenames.csv": pd.DataFrame({"Stimulus_Number": rows, "Filename": names}),
        "VideoDemographics.csv": pd.DataFrame(people, columns=["ActorID", "Age", "Sex", "Race", "Ethnicity"]),
        "processedResults/summaryTable.csv": pd.DataFrame(votes, rows, ["FileName", *columns]),
    }
    for name, table in tables.items():
        table.to_csv(folder / name, index="summary" in name, lineterminator="\n")


def _write_lists(folder: Path, clips: Sequence[Clip], rng: np.random.Generator) -> None:
    """train.csv and test.csv as published: mixed, no header, CRLF; a byte-order mark in the class list."""
    mixed = pd.DataFrame([(clips[i].name, clips[i].emotion) for i in rng.permutation(len(clips))])
    classes = mixed.groupby(1)[0]
    test = classes.cumcount() < (TEST * classes.transform("size")).round().clip(lower=1)
    for split, rows in (("train", mixed[~test]), ("test", mixed[test])):
        rows.to_csv(folder / f"{split}.csv", header=False, index=False, lineterminator="\r\n")
    (folder / "stat.csv").write_bytes(("\ufeff" + "".join(f"{e}\r\n" for e in EMOTIONS)).encode())
