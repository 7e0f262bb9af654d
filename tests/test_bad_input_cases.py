"""Every way in which somebody's data can be wrong, once: each message names the place, the reason and the
remedy.

All cases take a user's way: parameters → `resolve` → `read_raw` → `write_store` → `open_store`, on a `table`
of eight rows. The wording of the messages is in `bad_input_messages.txt`: a change of words is made there, by
G2D_UPDATE_MESSAGES=1. What must simply work is in the second list, with the value that it must have."""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import openpyxl
import pandas as pd
import pytest
import soundfile
from PIL import Image

from g2d_pipeline.data_report.report import describe_data, list_warnings
from g2d_pipeline.errors import G2DError
from g2d_pipeline.features import FeatureStore, open_store, write_store
from g2d_pipeline.features import files as store_files
from g2d_pipeline.files import locked
from g2d_pipeline.resolve import resolve
from g2d_pipeline.sources import locate, read_raw
from g2d_pipeline.sources.manifest import Manifest

N, RATE = 8, 4000
RUN = {
    "dataset": "own",
    "method": "unimodal",
    "compare": [],
    "device": "cpu",
    "progress": False,
    "workers": 1,
}
MODALITIES: dict[str, dict[str, Any]] = {
    "weather": {"kind": "tabular", "columns": ["warmth"]},
    "sound": {
        "kind": "audio",
        "sample_rate": RATE,
        "seconds": 0.1,
        "n_fft": 64,
        "hop_length": 64,
        "noise": 0.0,
    },
    "photo": {"kind": "image", "size": [4], "channels": 3},
    "clip": {"kind": "video", "frames": 3, "size": [8]},
    "steps": {"kind": "sequence", "steps": 4},
}
COLOUR = (200, 100, 48)
rng = np.random.default_rng(0)
WAVE = (0.3 * rng.standard_normal(500)).clip(-0.9, 0.9).astype(np.float32)
NOISE = Image.fromarray(rng.integers(0, 256, (60, 60, 3), np.uint8))
MESSAGES = Path(__file__).with_name("bad_input_messages.txt")
UPDATE = os.environ.get("G2D_UPDATE_MESSAGES", "0") != "0"
ELSEWHERE = {
    r"process \d+, since [\d :-]+": "process <number>, since <time>",
    r"\((\w+Error: |File is|Image size|cannot identify|negative dim).*\)": "(<library>)",
}


@dataclass
class Own:
    """A project whose `raw` folder holds eight samples, and the means to break it. Row 2 is the first
    sample."""

    project: Path
    frame: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(
            {
                "id": [f"s{i}" for i in range(N)],
                "warmth": np.arange(N) + 0.5,
                "label": ["dry", "wet"] * 4,
                "price": np.arange(N) + 1.25,
                "place": [f"p{i}" for i in range(N)],
                "fold": ["train"] * 4 + ["val"] * 2 + ["test"] * 2,
                "sound": [f"{i}.wav" for i in range(N)],
                "photo": [f"{i}.png" for i in range(N)],
                "steps": [f"{i}.npy" for i in range(N)],
                "clip": "clip.mp4",
            }
        )
    )

    def __post_init__(self) -> None:
        self.raw.mkdir()
        for i in range(N):
            soundfile.write(self.raw / f"{i}.wav", WAVE, RATE, subtype="PCM_16")
            Image.new("RGB", (5, 6), COLOUR).save(self.raw / f"{i}.png")
            np.save(self.raw / f"{i}.npy", np.full((3, 2), float(i), np.float32))
        self.save()

    @property
    def raw(self) -> Path:
        return self.project / "raw"

    @property
    def store(self) -> Path:
        return self.project / "closed" / "store"

    @property
    def table(self) -> Path:
        return self.raw / "metadata.csv"

    def save(self, **options: Any) -> None:
        self.frame.to_csv(self.table, index=False, **options)

    def put(self, row: int, column: str, value: object) -> None:
        self.frame[column] = self.frame[column].astype(object)
        self.frame.loc[row - 2, column] = value
        self.save()

    def run(self, modality: str, task: str, raw: dict[str, Any]) -> tuple[Manifest, FeatureStore]:
        of = {"layout": "table", "raw_dir": "raw", "target": "label", "split": "fold"} | raw
        section = {"raw": of, "task": task, "modalities": {modality: MODALITIES[modality]}}
        files = RUN | {"datasets": {"own": section}}
        configuration = resolve(files, {}, lambda r, s: locate(r, s, self.project), project=self.project)
        manifest = read_raw(configuration.ingest(), self.project)
        write_store(self.store, manifest, self.project / manifest.meta["raw_dir"], configuration.featurize())
        return manifest, open_store(self.store)


@pytest.fixture
def own() -> Iterator[Own]:
    """In a folder that any user may enter, unlike `tmp_path`: one case is another user's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "closed").mkdir()
    yield Own(folder)
    (folder / "closed").chmod(0o755)
    shutil.rmtree(folder)


# ---------------------------------------------------------------------------------------- how things go wrong
Damage = Callable[[Own], object]


def put(row: int, column: str, value: object) -> Damage:
    return lambda own: own.put(row, column, value)


def fill(column: str, value: object) -> Damage:
    return lambda own: (own.frame.__setitem__(column, value), own.save())


def rename(old: str, new: str) -> Damage:
    def change(own: Own) -> None:
        own.frame = own.frame.rename(columns={old: new})
        own.save()

    return change


def write(name: str, content: bytes | str) -> Damage:
    return lambda own: (own.raw / name).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(name: str, share: float = 0.5) -> Damage:
    def change(own: Own) -> None:
        path = own.raw / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return change


def sound(wave: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> Damage:
    return lambda own: soundfile.write(own.raw / "1.wav", wave, rate, subtype=subtype)


def tone(rate: int) -> Damage:
    """The same 500 Hz at row 2, at the usual rate, and at row 3."""

    def change(own: Own) -> None:
        for name, of in (("0.wav", RATE), ("1.wav", rate)):
            soundfile.write(own.raw / name, 0.5 * np.sin(2 * np.pi * 500 * np.arange(of // 8) / of), of)

    return change


def picture(image: Image.Image, name: str = "1.png") -> Damage:
    def change(own: Own) -> None:
        image.save(own.raw / name)
        own.put(3, "photo", name)

    return change


def film(name: str, codec: str, pictures: int) -> Damage:
    """A film without a sound track in every row, as picture and as sound."""

    def change(own: Own) -> None:
        with av.open(str(own.raw / name), "w") as container:
            stream = container.add_stream(codec, rate=5)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for i in range(pictures):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * i, np.uint8), format="rgb24")
                frame.pts = i
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        own.frame["clip"] = own.frame["sound"] = name
        own.save()

    return change


def bomb(own: Own) -> None:
    """A PNG of a hundred bytes that says it is 20,000 pixels wide and high."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (own.raw / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def workbook(*cells: tuple[str, str], before: bool = False) -> Damage:
    """The table as metadata.xlsx with these cells set; `before`: another worksheet comes first."""

    def change(own: Own) -> None:
        own.table.unlink()
        own.frame.to_excel(own.raw / "metadata.xlsx", index=False)
        book = openpyxl.load_workbook(own.raw / "metadata.xlsx")
        for cell, value in cells:
            book.worksheets[0][cell] = value
        if before:
            book.create_sheet("notes", 0).append(["made by hand"])
            book.worksheets[0].append(["in May"])
        book.save(own.raw / "metadata.xlsx")

    return change


def header(shape: str) -> Damage:
    """An array file whose header promises this shape."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return write("1.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(24))


def link_to_nothing(own: Own) -> None:
    (own.raw / "1.png").unlink()
    (own.raw / "1.png").symlink_to(own.project / "gone.png")


def flip(own: Own) -> None:
    content = bytearray((own.store / "weather.npy").read_bytes())
    content[-2] ^= 1
    (own.store / "weather.npy").write_bytes(content)


def shorten(own: Own) -> None:
    path = own.store / "weather.npy"
    path.write_bytes(path.read_bytes()[:-4])


def age(own: Own) -> None:
    path = own.store / "meta.json"
    path.write_text(path.read_text().replace('"format": ', '"format": 9', 1))


@contextmanager
def full_disk(own: Own) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 8}))
        yield


@contextmanager
def another_user(own: Own) -> Iterator[None]:
    """Without the rights of root, to whom nothing is forbidden, and with a folder that must not be
    written."""
    (own.project / "closed").chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextmanager
def another_run(own: Own) -> Iterator[None]:
    """What a Kedro run does before a node, while another run is making the same."""
    with locked(own.project / "data/features-1"):
        with locked(own.project / "data/features-1"):
            pass
        yield


@dataclass(frozen=True)
class Told:
    """A case that ends in a message: `place` (file, row, column, value or key), a reason, the remedy that
    begins with `remedy`; its words are in `MESSAGES`. `store`: what is damaged is the store, once written."""

    name: str
    damage: Damage
    place: str
    modality: str = "weather"
    task: str = "classification"
    raw: dict[str, Any] = field(default_factory=dict)
    store: bool = False
    around: Callable[[Own], AbstractContextManager[None]] = lambda own: nullcontext()
    remedy: str = "What to do: "


def nothing(own: Own) -> None:
    """The settings or the surroundings are what is wrong."""


TOLD = [
    # files
    Told("missing folder", lambda own: shutil.rmtree(own.raw), "raw_dir 'raw'"),
    Told(
        "Git-LFS pointer",
        write("1.wav", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "metadata.csv, row 3: '1.wav'",
        "sound",
    ),
    Told("zero-byte recording", write("1.wav", b""), "metadata.csv, row 3: '1.wav'", "sound"),
    Told("web page", write("1.png", "<!doctype html><title>Quota exceeded"), "row 3: '1.png'", "photo"),
    Told("truncated recording", cut("1.wav"), "1.wav (sample", "sound"),
    Told(
        "noise with the ending of a recording", write("1.wav", bytes(range(1, 200))), "1.wav (sample", "sound"
    ),
    Told(
        "another ending than the file's",
        lambda own: ((own.raw / "1.wav").rename(own.raw / "a.wav"), own.put(3, "sound", "a.flac")),
        "row 3: 'a.flac'",
        "sound",
    ),
    Told("mp4 without a sound track", film("film.mp4", "mpeg4", 5), "film.mp4 (sample", "sound"),
    Told("flv with one frame", film("film.flv", "flv1", 1), "film.flv (sample", "clip"),
    Told("wav of 0 samples", sound(WAVE[:0]), "1.wav (sample", "sound"),
    Told("wav of NaN", sound(np.full(9, np.nan), subtype="FLOAT"), "1.wav (sample", "sound"),
    Told("decompression bomb", bomb, "1.png (sample", "photo"),
    Told(
        "truncated JPEG",
        lambda own: (picture(NOISE, "1.jpg")(own), cut("1.jpg", 0.8)(own)),
        "1.jpg (sample",
        "photo",
    ),
    Told(
        "JPEG overwritten",
        lambda own: (put(3, "photo", "1.jpg")(own), write("1.jpg", b"\xff\xd8" + b"x" * 99)(own)),
        "1.jpg (sample",
        "photo",
    ),
    # the table
    Told("zero-byte table", write("metadata.csv", b""), "metadata.csv"),
    Told("table of a header", lambda own: own.frame[:0].to_csv(own.table, index=False), "metadata.csv"),
    Told("truncated workbook", lambda own: (workbook()(own), cut("metadata.xlsx")(own)), "metadata.xlsx"),
    Told("missing column", rename("warmth", "rain"), "metadata.csv lacks columns"),
    Told("misspelt column", rename("warmth", "warmht"), "metadata.csv lacks columns"),
    Told(
        "column twice",
        lambda own: (
            own.frame.assign(again=1).rename(columns={"again": "warmth"}).to_csv(own.table, index=False)
        ),
        "metadata.csv has columns more than once",
    ),
    Told("id twice, in two splits", put(9, "id", "s0"), "metadata.csv: ids in column 'id'", raw={"id": "id"}),
    Told(
        "not UTF-8",
        write("metadata.csv", "warmth,label\n1,süß\n".encode("latin-1")),
        "metadata.csv is not UTF-8",
    ),
    Told("thousands separator", put(4, "warmth", "1,013"), "metadata.csv, row 4, column 'warmth'"),
    Told("formula in a workbook", workbook(("B3", "=1+1")), "metadata.xlsx, row 3, column 'warmth'"),
    Told("wrong worksheet", workbook(before=True), "metadata.xlsx lacks columns"),
    # labels and targets
    Told(
        "unknown label",
        put(5, "label", "we"),
        "metadata.csv, row 5, column 'label'",
        raw={"classes": ["dry", "wet"]},
    ),
    Told("missing label", put(5, "label", ""), "metadata.csv, row 5"),
    Told("constant label", fill("label", "dry"), "metadata.csv: the target 'label'"),
    Told("measurement as label", nothing, "metadata.csv: the target 'price'", raw={"target": "price"}),
    Told("text as target", nothing, "metadata.csv, row 2, column 'label'", task="regression"),
    Told(
        "target NaN",
        put(6, "price", "NaN"),
        "metadata.csv, row 6",
        task="regression",
        raw={"target": "price"},
    ),
    Told(
        "target infinite",
        put(6, "price", "inf"),
        "metadata.csv, row 6",
        task="regression",
        raw={"target": "price"},
    ),
    Told(
        "constant target",
        fill("price", 2),
        "metadata.csv: the target 'price'",
        task="regression",
        raw={"target": "price"},
    ),
    Told("class that train lacks", put(9, "label", "storm"), "metadata.csv, column 'label'"),
    # splits and paths
    Told("misspelt split", put(7, "fold", "tets"), "metadata.csv, row 7, column 'fold'"),
    Told("empty split", fill("fold", ["train"] * 4 + ["test"] * 4), "metadata.csv: column 'fold'"),
    Told(
        "path out of the raw folder",
        put(3, "photo", "../../secret.png"),
        "metadata.csv, row 3: '../../secret.png'",
        "photo",
    ),
    Told("absolute path", put(3, "photo", "/srv/1.png"), "metadata.csv, row 3: '/srv/1.png'", "photo"),
    Told("link to nothing", link_to_nothing, "metadata.csv, row 3: '1.png'", "photo"),
    Told("case of a name", put(3, "photo", "1.PNG"), "metadata.csv, row 3: '1.PNG'", "photo"),
    # sequences
    Told(
        "sequence of another width",
        lambda own: np.save(own.raw / "1.npy", np.ones((3, 5), np.float32)),
        "1.npy (sample",
        "steps",
    ),
    Told("sequence of negative length", header("(-3, 2)"), "1.npy (sample", "steps"),
    Told("truncated array", header("(300, 2)"), "1.npy (sample", "steps"),
    # the store and the machine
    Told("store of another version", age, "meta.json", store=True),
    Told("truncated store", shorten, "weather.npy", store=True),
    Told("flipped bit in a store", flip, "weather.npy", store=True),
    Told("full disk", nothing, "The feature store", around=full_disk, remedy="Make room"),
    Told("no right to write", nothing, "closed", around=another_user, remedy="Give yourself the right"),
    Told("two runs at once", nothing, "data/features-1", around=another_run, remedy="Say --params wait=true"),
]


@pytest.fixture(scope="module")
def wording() -> Iterator[dict[str, str]]:
    """Case → its message in `MESSAGES`, which is written anew with G2D_UPDATE_MESSAGES=1."""
    blocks = MESSAGES.read_text("utf-8").split("## ")[1:]
    texts = {name: text.strip() for name, _, text in (block.partition("\n") for block in blocks)}
    yield texts
    if UPDATE:
        known = [f"## {case.name}\n{texts[case.name]}\n" for case in TOLD if case.name in texts]
        MESSAGES.write_text("\n".join(known), "utf-8")


@pytest.mark.parametrize("case", TOLD, ids=lambda case: case.name)
def test_what_is_wrong_is_told_with_place_reason_and_remedy(
    own: Own, case: Told, wording: dict[str, str]
) -> None:
    message = message_of(own, case)
    problem, _, remedy = message.partition(case.remedy)
    assert case.place in problem, message
    assert problem.replace(case.place, "").split()[2:], message  # a reason beside it
    assert remedy, message
    text = anywhere(message, own.project)
    if UPDATE:
        wording[case.name] = text
    assert text == wording.get(case.name), f"G2D_UPDATE_MESSAGES=1 rewrites {MESSAGES.name}"


def test_every_message_on_file_is_of_a_case(wording: dict[str, str]) -> None:
    assert UPDATE or list(wording) == [case.name for case in TOLD]


def anywhere(message: str, project: Path) -> str:
    """A message without this machine's paths and numbers, and without the words of other libraries."""
    for folder in (project.resolve(), project):
        message = message.replace(str(folder), "<project>")
    for pattern, stand_in in ELSEWHERE.items():
        message = re.sub(pattern, stand_in, message)
    return message


def message_of(own: Own, case: Told) -> str:
    """What the user reads. Fails where nothing is raised, or an error that is not meant for people."""
    if case.around is another_user and not hasattr(os, "geteuid"):
        pytest.skip("this system has no users to change to")
    if not case.store:
        case.damage(own)
    else:
        own.run(case.modality, case.task, case.raw)
        case.damage(own)
    with pytest.raises(G2DError) as told, case.around(own):
        open_store(own.store).verify() if case.store else own.run(case.modality, case.task, case.raw)
    return str(told.value)


# ------------------------------------------------------------------------------------------ what simply works
@dataclass(frozen=True)
class Works:
    """A case that is read, and what must come of it."""

    name: str
    damage: Damage
    check: Callable[[Manifest, FeatureStore], bool]
    modality: str = "weather"
    raw: dict[str, Any] = field(default_factory=dict)


def same_sound(manifest: Manifest, store: FeatureStore) -> bool:
    """The recording of row 3 is that of row 2, but for rounding; magnitudes are around 1."""
    sounds = np.exp(store.arrays["sound"][:2])
    return bool(np.abs(sounds[1] - sounds[0]).max() < 2e-3 < sounds[0].mean())


def same_pitch(manifest: Manifest, store: FeatureStore) -> bool:
    """500 Hz is bin 8 of 64 samples at 4 kHz."""
    return np.exp(store.arrays["sound"][:2]).mean(axis=(1, 3)).argmax(axis=1).tolist() == [8, 8]


def colour(*expected: int, within: int = 0) -> Callable[[Manifest, FeatureStore], bool]:
    """The picture of row 3 is of this colour."""

    def check(manifest: Manifest, store: FeatureStore) -> bool:
        pixels = store.arrays["photo"][1].astype(int)
        return bool((np.abs(pixels - np.reshape(expected, (3, 1, 1))) <= within).all())

    return check


def same_table(manifest: Manifest, store: FeatureStore) -> bool:
    table = manifest.table
    return table["warmth"].tolist() == [i + 0.5 for i in range(N)] and manifest.meta["class_names"] == [
        "dry",
        "wet",
    ]


def silence_is_noted(manifest: Manifest, store: FeatureStore) -> bool:
    return any("1 of 8 samples have recordings that are silent: " in note for note in store.meta["notes"])


def group_is_reported(manifest: Manifest, store: FeatureStore) -> bool:
    warnings = {
        warning["kind"]: warning["count"]
        for warning in list_warnings(describe_data(manifest, store, store.path))
    }
    return warnings.get("groups in several splits") == 1


RGB = Image.new("RGB", (5, 6), COLOUR)
WORKS = [
    Works("stereo", sound(np.stack([WAVE, WAVE * 0.6], axis=1)), same_sound, "sound"),
    Works("24 bits", sound(WAVE, subtype="PCM_24"), same_sound, "sound"),
    Works("floats", sound(WAVE, subtype="FLOAT"), same_sound, "sound"),
    Works("8 kHz", tone(8000), same_pitch, "sound"),
    Works("192 kHz", tone(192_000), same_pitch, "sound"),
    Works("all silent", sound(WAVE * 0), silence_is_noted, "sound"),
    Works("CMYK", picture(RGB.convert("CMYK"), "1.tif"), colour(*COLOUR, within=1), "photo"),
    Works(
        "16 bits",
        picture(Image.fromarray(np.full((6, 5), 200 * 256 + 77, np.uint16))),
        colour(200, 200, 200),
        "photo",
    ),
    Works("palette", picture(RGB.quantize(4)), colour(*COLOUR), "photo"),
    Works("RGBA", picture(Image.new("RGBA", (5, 6), (*COLOUR, 9))), colour(*COLOUR), "photo"),
    Works("1 × 1", picture(Image.new("RGB", (1, 1), COLOUR)), colour(*COLOUR), "photo"),
    Works(
        "a PNG called JPEG",
        lambda own: ((own.raw / "1.png").rename(own.raw / "1.jpg"), own.put(3, "photo", "1.jpg")),
        colour(*COLOUR),
        "photo",
    ),
    Works("byte-order mark", lambda own: own.save(encoding="utf-8-sig"), same_table),
    Works("semicolons and decimal commas", lambda own: own.save(sep=";", decimal=","), same_table),
    Works("group in two splits", put(9, "place", "p0"), group_is_reported, raw={"group": "place"}),
]


@pytest.mark.parametrize("case", WORKS, ids=lambda case: case.name)
def test_what_is_unusual_but_clear_is_read(own: Own, case: Works) -> None:
    case.damage(own)
    manifest, store = own.run(case.modality, "classification", case.raw)
    assert len(manifest.table) == N
    assert case.check(manifest, store)
