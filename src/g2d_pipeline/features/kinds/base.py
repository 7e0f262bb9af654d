"""What the writer of a store and the data report ask a kind of modality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from g2d_pipeline.config import SPLITS
from g2d_pipeline.config.base import Strict
from g2d_pipeline.errors import SHOWN, ConfigError
from g2d_pipeline.features.cells import files_of, is_row
from g2d_pipeline.features.faults import MediaError, decoding
from g2d_pipeline.features.files import Array, Rows
from g2d_pipeline.features.statistics import (
    NO_INFORMATION,
    Normaliser,
    channel_statistics,
    feature_statistics,
)
from g2d_pipeline.remote import fetch

if TYPE_CHECKING:
    import pandas as pd

Values = tuple[Array, dict[str, int]]  # of a cell, with note → count
Item = tuple[int, str, bytes | None]  # position in the chunk, cell, the file's content where it has been read
MAX_HEADERS = 2000  # files of a modality whose headers the data report reads


@dataclass(frozen=True)
class ArraySpec:
    """The shape of one sample, and the type of its numbers."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def exact(self) -> str:
        """What the transforms return; float16 is rounded from it."""
        return "float32" if self.dtype == "float16" else self.dtype


@dataclass
class Findings:
    """What decoding notices: position → why a cell can not be used; note → position → count."""

    faults: dict[int, str] = field(default_factory=dict)
    notes: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))

    @contextmanager
    def decoding(self, k: int, cell: Path) -> Iterator[None]:
        """Inside, the file of cell k is decoded: whatever a library raises is why it can not be used."""
        try:
            with decoding(cell):
                yield
        except MediaError as error:
            self.faults[k] = error.reason


@dataclass(frozen=True)
class Corruption:
    """One of a kind's `corruptions`, and its strength; `about`: the modality's entry in `meta.json`."""

    name: str
    strength: float
    about: Mapping[str, Any]


class Kind(ABC):
    """One kind of modality with its settings. Subclass `FileKind` or `ColumnKind`."""

    settings_class: ClassVar[type[Strict]]
    endings: ClassVar[frozenset[str]] = frozenset()  # of files of a sample each, in a folder without a table
    images = False  # whether the stored bytes are images `[C, …, H, W]` that can nearly equal one another
    # Name of a corruption → how its strength is written, and three strengths from mild to severe.
    corruptions: ClassVar[Mapping[str, tuple[str, tuple[float, ...]]]] = {}

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    def columns(self) -> list[str] | None:
        """The manifest's columns; None: one, of any name."""
        return None

    def expand_columns(self, table: pd.DataFrame, columns: Sequence[str]) -> Any:
        """The settings, with what the manifest's `columns` of the modality decide."""
        return self.settings

    def check(self, name: str, table: pd.DataFrame, sample_ids: Sequence[str]) -> None:  # noqa: B027
        """Raise ConfigError or DataError for settings or columns of modality `name` that can not work."""

    def _place(self) -> str:
        """Where a mistake of the class is to be mended."""
        return f"The kind {type(self).__module__}.{type(self).__name__}"

    def corrupt(self, values: Array, corruption: Corruption, rng: np.random.Generator) -> Array:
        """Stored samples `[n, …]` corrupted in one of the ways of `corruptions`, of the same shape, in stored
        units; `rng` is the only source of chance."""
        raise ConfigError(f"{self._place()} lists the corruption {corruption.name!r}: define corrupt, too")


class ColumnKind(Kind):
    """A kind whose values stand in the manifest itself."""

    @property
    @abstractmethod
    def bytes_each(self) -> int:
        """The room that a sample takes on the disk, about."""

    @abstractmethod
    def write(
        self, folder: Path, name: str, table: pd.DataFrame, train: Rows, ids: Sequence[str], notes: list[str]
    ) -> dict[str, Any]:
        """Write `<name>.npy` `[N, …]`, adding to `notes`; returns the modality's entry in `meta.json`."""

    def encode(self, table: pd.DataFrame, about: Mapping[str, Any], folder: Path) -> Array:
        """The manifest's columns of further samples `[n]` as `write` stores them: by the modality's entry
        `about` and what else `write` has made, in `folder`. A kind without it trains, but does not serve."""
        raise ConfigError(f"{self._place()} has no encode: a model with it can not read raw data")

    @abstractmethod
    def facts(self, about: Mapping[str, Any], table: pd.DataFrame, split: Array) -> dict[str, Any]:
        """What the data report says beyond `stored_facts`: `splits` (split → facts), …"""


class FileKind(Kind):
    """A kind whose cells point to files, or rows of array files, that are decoded."""

    plural: ClassVar[str]  # "recordings", in messages
    # note → words; {total}: counts
    notes: ClassVar[dict[str, str]] = {"constant": "that are zero throughout"}
    chunk = 256  # cells that are decoded and recorded at once
    keep_bytes = 0  # files up to this size are read once, for their hash and for `read`
    folders = False  # whether a cell may be a folder of images
    headers = False  # whether `header` reads something
    decoded = ""  # of the file that is decoded into, where that is not what is stored: `<name>.<decoded>.npy`

    @abstractmethod
    def spec(self, cells: Sequence[str], root: Path) -> ArraySpec:
        """The array that is decoded into, as far as settings and the first usable cell determine it."""

    def stored_spec(self, about: Mapping[str, Any]) -> ArraySpec:
        """The same of a stored modality, by its entry in `meta.json`."""
        return ArraySpec(tuple(about["shape"]), about["dtype"])

    def check_spec(self, name: str, spec: ArraySpec) -> None:
        """Raise ConfigError where the settings of modality `name` do not fit what its cells hold."""

    def read(self, cell: str, root: Path, spec: ArraySpec, content: bytes | None) -> Values:
        """(a cell's values as `spec` says, its notes → count). Raises MediaError where it can not be used."""
        raise NotImplementedError

    def decode(
        self, items: Iterable[Item], root: Path, spec: ArraySpec, values: Array, findings: Findings
    ) -> None:
        """Fill the rows of `values` `[n, *spec.shape]` that `items` name; bad cells are left as they are."""
        for k, cell, content in items:
            with findings.decoding(k, root / cell):
                values[k], notes = self.read(cell, root, spec, content)
                if self.is_constant(values[k]):
                    notes["constant"] = 1
                for note, count in notes.items():
                    findings.notes[note][k] = count

    def is_constant(self, values: Array) -> bool:
        """Whether a decoded sample holds nothing (beside the mask row of `[F + 1, T]`)."""
        return not (values[:-1] if values.ndim == 2 else values).any()

    def reusable(self, spec: ArraySpec) -> bool:
        """Whether decoding costs so much more than reading that later stores copy what this one has."""
        return False

    def bytes_each(self, spec: ArraySpec) -> int:
        """The room that a sample takes on the disk while the store is written."""
        return spec.bytes

    def transform(
        self, path: Path, decoded: Array, rows: Rows, train: Rows, sample_ids: Sequence[str]
    ) -> tuple[Array, dict[str, Any], Any]:
        """Where the kind has a `decoded` file: write what is stored of its `rows` to `path`.

        Returns the array, statistics for `meta.json`, rounding errors `[n, 2, C]` (see `to_half`) or None.
        `train` is of the stored rows, `sample_ids` are of the decoded ones."""
        raise NotImplementedError

    def encode(self, decoded: Array, about: Mapping[str, Any], folder: Path) -> Array:
        """What `transform` would store of further decoded samples `[n, …]`, by the modality's entry `about`
        and the file of what was fitted, in `folder`."""
        return decoded

    def normaliser(self, array: Array, train: Rows, scale: float) -> Normaliser:
        """(mean, std of scale · array, a value a channel; further statistics), of the rows `train`. Samples
        `[F + 1, T]`: of the real steps; the mask row stays as it is."""
        if array.ndim != 3:
            return channel_statistics(array, train, scale)
        if not np.isin(array[train[:1000], -1], (0, 1)).all():
            row = "its last row has to be 1 where a step is real, else 0"
            raise ConfigError(f"{self._place()} stores samples {list(array.shape[1:])}, [F + 1, T]: {row}")
        return feature_statistics(array, train, masked=True)

    def header(self, path: Path) -> dict[str, float]:
        """Seconds, width, height, … as a file's header tells. Raises anything where it is not understood."""
        return {}

    def _header(self, path: Path) -> dict[str, float]:
        with suppress(MediaError), decoding(path):
            fetch([path])
            return self.header(path)
        return {}  # counted as unknown

    def split_facts(self, headers: list[dict[str, float]], array: Array, rows: Rows) -> dict[str, Any]:
        """Further facts of a split: of its cells' `headers`, and its `rows` of the memory-mapped `array`."""
        return {}

    def facts(
        self,
        about: Mapping[str, Any],
        cells: Sequence[str],
        code: Rows,
        split: Array,
        root: Path,
        size_of: Callable[[Path], int],
        array: Array,
    ) -> dict[str, Any]:
        """What the data report says of the modality; `code` `[N]`: each sample's position in `cells`.

        `splits`: split → samples, distinct cells, and as min, median, max `bytes` (of a folder all its
        images) and what `header` returns; `headers`: how many were read, of how many, and how many were not
        understood. Rows of array files have neither. `found`: what decoding found."""
        held = [k for k, cell in enumerate(cells) if not is_row(cell)]
        bytes_of = {k: float(sum(size_of(path) for path in files_of(cells[k], root))) for k in held}
        read = held if self.headers else []
        if len(read) > MAX_HEADERS:
            read = [read[k] for k in np.linspace(0, len(read) - 1, MAX_HEADERS).astype(int).tolist()]
        headers = {k: self._header(root / cells[k]) for k in read}
        splits = {}
        for name in SPLITS:
            cells_in_split = np.unique(code[split == name]).tolist()
            known = [headers[k] for k in cells_in_split if k in headers]
            facts: dict[str, Any] = {"samples": int((split == name).sum()), "distinct": len(cells_in_split)}
            facts |= spread("bytes", [bytes_of[k] for k in cells_in_split if k in bytes_of])
            for key in ("seconds", "width", "height", "pictures"):
                facts |= spread(key, [header[key] for header in known if key in header])
            splits[name] = facts | self.split_facts(known, array, np.flatnonzero(split == name))
        facts = {"splits": splits, "found": about.get("found", {})}
        if read:
            unknown = sum(not header for header in headers.values())
            facts["headers"] = {"read": len(read), "of": len(held), "unknown": unknown}
        return facts


class PictureKind(FileKind):
    """A kind of pictures `[C, …, H, W]`, whose settings may have mean and std."""

    headers = images = True
    corruptions: ClassVar = {
        "noise": ("{:g} std", (0.25, 0.5, 1.0)),
        "blur": ("{:.0%} of the side", (0.02, 0.04, 0.08)),
        "occlusion": ("{:.0%} of the area", (0.1, 0.25, 0.5)),
    }

    def corrupt(self, values: Array, corruption: Corruption, rng: np.random.Generator) -> Array:
        """`noise`: Gaussian, in train standard deviations of each channel, not clipped; `blur`: Gaussian, its
        standard deviation as a share of the shorter side; `occlusion`: a box of the picture's proportions
        at a random place, the same in all pictures of a clip, of the train mean."""
        import torch
        from torchvision.transforms.v2 import functional as transforms

        about, strength = corruption.about, corruption.strength
        pictures = torch.from_numpy(standardised(values, about))
        height, width = pictures.shape[-2:]
        if corruption.name == "noise":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(rng.integers(2**63)))
                pictures = transforms.gaussian_noise(pictures, sigma=strength, clip=False)
        elif corruption.name == "blur":
            sigma = strength * min(height, width)
            radius = [min(int(np.ceil(3 * sigma)), side - 1) for side in (width, height)]
            pictures = transforms.gaussian_blur(pictures, [2 * r + 1 for r in radius], [sigma, sigma])
        else:
            tall, wide = (max(1, round(side * strength**0.5)) for side in (height, width))
            places = rng.integers([height - tall + 1, width - wide + 1], size=(len(values), 2))
            for picture, (top, left) in zip(pictures, places.tolist(), strict=True):
                transforms.erase(picture, top, left, tall, wide, torch.zeros(()), inplace=True)
        return standardised(pictures.numpy(), about, back=True)

    def is_constant(self, values: Array) -> bool:
        """Whether each channel holds one value."""
        channels = values.reshape(len(values), -1)
        return bool((channels.min(axis=1) == channels.max(axis=1)).all())

    def normaliser(self, array: Array, train: Rows, scale: float) -> Normaliser:
        if self.settings.mean is None:
            return super().normaliser(array, train, scale)
        return list(self.settings.mean), list(self.settings.std), {}


def standardised(values: Array, about: Mapping[str, Any], back: bool = False) -> Array:
    """Stored samples `[n, C, …]` in train standard deviations from the train mean, as float32; `back`: the
    inverse. A constant channel counts as one of standard deviation 1."""
    normaliser = about["normaliser"] or {"scale": 1.0, "mean": 0.0, "std": 1.0}
    shape = (1, -1) + (1,) * (values.ndim - 2)
    mean, std = (np.reshape(normaliser[key], shape) / normaliser["scale"] for key in ("mean", "std"))
    std = np.where(np.reshape(normaliser["std"], shape) >= NO_INFORMATION, 1.0, std)
    return np.asarray(values * std + mean if back else (values - mean) / std, np.float32)


def keep_some(real: Array, share: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Drop each of the `real` steps `[n, T]` with probability `share`, but leave a sample its first one.

    Returns two arrays `[n, T]`: the order that puts the kept steps first, and where they stand then."""
    kept = real & (rng.random(real.shape) >= share)
    lost = np.flatnonzero(real.any(axis=1) & ~kept.any(axis=1))
    kept[lost, real[lost].argmax(axis=1)] = True
    order = np.argsort(~kept, axis=1, kind="stable")
    return order, np.arange(real.shape[1]) < kept.sum(axis=1)[:, None]


def stored_facts(about: Mapping[str, Any]) -> dict[str, Any]:
    """What the data report says of any stored modality: its kind, and what the store keeps of a sample."""
    spec = ArraySpec(tuple(about["shape"]), about["dtype"])
    stored = {"shape": list(spec.shape), "dtype": spec.dtype, "bytes": spec.bytes}
    return {"kind": str(about["kind"]), "stored": stored}


def first_few(names: Sequence[str]) -> str:
    """The first names of a note, `SHOWN` at most."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def spread(key: str, values: Sequence[float]) -> dict[str, dict[str, float]]:
    """`{key: {min, median, max}}`, rounded to 4 decimals; nothing where there are no values."""
    if not len(values):
        return {}
    numbers = {"min": min(values), "median": float(np.median(values)), "max": max(values)}
    return {key: {name: round(float(value), 4) for name, value in numbers.items()}}
