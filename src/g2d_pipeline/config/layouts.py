"""What raw folders look like: one class a layout (raw → manifest)."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, NonNegativeInt, PositiveInt, Tag, model_validator

from g2d_pipeline.config.base import SPLITS, ColumnName, Split, Strict, split_slashes


class RawSettings(Strict):
    """What all layouts have: `raw_dir` is relative to the project unless absolute."""

    layout: str
    raw_dir: str


class AVDigits(RawSettings):
    """Bundled: scikit-learn's handwritten digits × spoken digits synthesised with espeak-ng; always a
    SAMPLE."""

    layout: Literal["av_digits"] = "av_digits"
    seed: NonNegativeInt = 0  # of the pairing


class SpokenMNIST(RawSettings):
    """Real recordings (FSDD) × real handwriting (MNIST test images), paired by digit; pairs never cross
    splits.

    `test_takes` is FSDD's official test set; `val_takes` are held out of its training takes. `pairs`: how
    many pairs each split gets; images never repeat, recordings do where there are more pairs than recordings.
    """

    layout: Literal["spoken_mnist"] = "spoken_mnist"
    pairs: dict[Split, PositiveInt] = {"train": 2000, "val": 500, "test": 1000}
    test_takes: list[NonNegativeInt] = [0, 1, 2, 3, 4]
    val_takes: list[NonNegativeInt] = [5, 6, 7, 8, 9]
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _takes_are_disjoint(self) -> Self:
        if both := set(self.test_takes) & set(self.val_takes):
            raise ValueError(f"takes {sorted(both)} are in both test_takes and val_takes")
        if missing := [s for s in SPLITS if s not in self.pairs]:
            raise ValueError(f"pairs lacks {missing}")
        return self


class MISME(RawSettings):
    """MIS-ME: XLSX label files + a flat image folder → volumetric water content (datasets.md §5.1).

    `sample_rows`: rows of the simulated sample per split, where the raw folder is absent.
    """

    layout: Literal["mis_me"] = "mis_me"
    sample_rows: dict[Split, PositiveInt] = {"train": 160, "val": 40, "test": 45}
    seed: NonNegativeInt = 0


class CremaD(RawSettings):
    """CREMA-D (datasets.md §1): WAV + FLV (or extracted pictures) → 6 emotions.

    `split`: `published` is the field's 6,698 / 744 clips, of whose train part `val_fraction` is held out,
    stratified; `speakers`: no actor in two splits. `broken_clips`: the four whose video is known to be broken
    (§1.5), all of train. `sample_clips`: clips of the simulated sample."""

    layout: Literal["crema_d"] = "crema_d"
    split: Literal["published", "speakers"] = "published"
    broken_clips: Literal["drop", "keep"] = "drop"
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    sample_clips: Annotated[int, Field(ge=36)] = 120
    seed: NonNegativeInt = 0


class AVMNIST(RawSettings):
    """AV-MNIST (datasets.md §2): six arrays → 10 digits. The last 5,000 train rows are val (MultiBench's
    split)."""

    layout: Literal["av_mnist"] = "av_mnist"
    val_rows: PositiveInt = 5000
    sample_rows: dict[Split, PositiveInt] = {"train": 500, "val": 100, "test": 200}
    seed: NonNegativeInt = 0


class VGGSound(RawSettings):
    """VGGSound (datasets.md §3): the published CSV + whatever clips could be downloaded → 309 sounds."""

    layout: Literal["vggsound"] = "vggsound"
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    sample_clips: Annotated[int, Field(ge=60)] = 120
    seed: NonNegativeInt = 0


class URFunny(RawSettings):
    """UR-Funny V2 (datasets.md §4): published pickles, read without executing anything → humour yes/no."""

    layout: Literal["ur_funny"] = "ur_funny"
    context: bool = False  # the sentences before the punchline, too
    sample_rows: dict[Split, PositiveInt] = {"train": 240, "val": 60, "test": 60}
    seed: NonNegativeInt = 0


class SplitFractions(Strict):
    """A split that is drawn: `val` and `test` are shares of the rows; `group` (a column) never crosses
    splits.

    `group_pattern`: a regular expression; the group is what it finds in the cell: `[A-Z]+` finds the `K` of
    `K12`."""

    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    stratify: bool = True
    group: str | None = None
    group_pattern: str | None = None
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _pattern_is_one(self) -> Self:
        if self.group_pattern is None:
            return self
        if self.group is None:
            raise ValueError("group_pattern needs group: the column in whose cells it is looked for")
        try:
            re.compile(self.group_pattern)
        except re.error as error:
            raise ValueError(f"group_pattern is no regular expression: {error}") from None
        return self


def _column_or_fractions(value: Any) -> str:
    return "str" if isinstance(value, str) else "SplitFractions"


SplitSettings = Annotated[
    Annotated[str, Tag("str")] | Annotated[SplitFractions, Tag("SplitFractions")],
    Discriminator(_column_or_fractions),
]


SPLIT_WORDS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


def split_of(file: str) -> Split | None:
    """The split that a file's name or else its folder tells: `val` of `valid.csv` and `dev/metadata.csv`."""
    path = PurePosixPath(file)
    return SPLIT_WORDS.get(path.stem.casefold()) or SPLIT_WORDS.get(path.parent.name.casefold())


def _by_split(value: Any) -> Any:
    """A list of files whose names tell their splits → split → file."""
    if not isinstance(value, list):
        return value
    splits = {str(file): split_of(str(file)) for file in value}
    if unclear := [file for file, split in splits.items() if split is None]:
        raise ValueError(f"{unclear} tell no split: write {{train: …, val: …, test: …}}")
    if len(set(splits.values())) < len(value):
        raise ValueError(f"two of {value} are of the same split: write {{train: …, val: …, test: …}}")
    return {split: file for file, split in splits.items()}


def _file_or_files(value: Any) -> str:
    return "str" if isinstance(value, str) else "dict"


TableFiles = Annotated[
    Annotated[str, Tag("str")] | Annotated[dict[Split, str], Tag("dict")],
    Discriminator(_file_or_files),
    BeforeValidator(_by_split),
]


class Join(Strict):
    """Columns of a further table: for each row, those of the row with the same key (dates may be written
    differently).

    `key`: its column, or `{ours: theirs}` where it has two names (not `on`, which YAML reads as true).
    `means`: n → further columns `<name>_mean<n>`, the means of `<name>` over the last n days, the row's
    included; the key is a date.

    `align: row` in place of `key`: row i of the further table, or of an array `.npy`, belongs to row i of the
    table. `names`: its columns, where it has no header (left out, of an array: `<stem>_0`, `<stem>_1`, …)."""

    table: str
    key: str | Annotated[dict[str, str], Field(min_length=1, max_length=1)] | None = None
    align: Literal["row"] | None = None
    names: list[ColumnName] | None = None
    means: Annotated[list[Annotated[int, Field(ge=2)]], BeforeValidator(split_slashes)] = []

    @model_validator(mode="after")
    def _key_or_rows(self) -> Self:
        if (self.key is None) == (self.align is None):
            raise ValueError(f"{self.table}: say which rows belong together, `key: <column>` or `align: row`")
        if self.means and self.key is None:
            raise ValueError("means over days need a key, which is a date")
        return self

    @property
    def keys(self) -> tuple[str, str] | None:
        """The key's column here and in the further table; None: rows align."""
        key = {self.key: self.key} if isinstance(self.key, str) else self.key or {}
        return next(iter(key.items()), None)


class Table(RawSettings):
    """Anybody's own data: one table (csv, tsv, jsonl, parquet, xlsx), a row a sample (datasets.md §6).

    `table`: the file, relative to `raw_dir`, or one for each split: `{train: …, val: …, test: …}`, or a list
    whose names tell; left out: `metadata.csv` (any ending), or `train.csv`, `val.csv` and `test.csv`, or a
    `metadata.csv` in folders `train`, `val` and `test`. `root`: where paths start (left out: the table's
    folder). `columns`: modality → its column of paths or text, or a template such as `images/{row}_front.jpg`
    of the row's number (`{row}` from 1, `{index}` from 0) and columns (`{name}`); tabular modalities have
    their own `columns`. `target`, `id`: columns. `split`: a column of train/val/test, or fractions (left out:
    the defaults, unless there is a table for each split). `classes`: the class names in order (left out:
    sorted). `names`: the columns of a text table without a header. `log_target`: the natural logarithm of the
    target is predicted. A `table` such as `sites/*.csv` is all files of that form, one below the other.
    `join`: further tables that add columns. `labelled_only`: rows without a target are no samples, which are
    left out and counted, rather than faults. `group`: a column that says who or where a sample is of, where
    the split is given: the data report tells which of its values are in several splits."""

    layout: Literal["table"] = "table"
    table: TableFiles | None = None
    root: str | None = None
    columns: dict[str, str] = {}
    target: ColumnName
    id: ColumnName | None = None
    split: SplitSettings | None = None
    group: str | None = None
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    names: list[ColumnName] | None = None
    log_target: bool = False
    join: list[Join] = []
    labelled_only: bool = False

    @model_validator(mode="after")
    def _one_split(self) -> Self:
        if isinstance(self.table, dict):
            if missing := [s for s in SPLITS if s not in self.table]:
                raise ValueError(
                    f"table lacks {', '.join(missing)}: name a table for each of {', '.join(SPLITS)}"
                )
            if len(set(self.table.values())) < len(SPLITS):
                raise ValueError("table names the same file for two splits: each needs one of its own")
            if self.split is not None:
                raise ValueError(
                    "there is a table for each split: remove `split`, or put all rows into one table"
                )
        if self.group is not None and isinstance(self.split, SplitFractions) and self.split.group is not None:
            raise ValueError("split.group keeps the groups apart, and is reported: remove `group`")
        return self


LayoutSettings = Annotated[
    AVDigits | SpokenMNIST | MISME | CremaD | AVMNIST | VGGSound | URFunny | Table,
    Field(discriminator="layout"),
]


class TargetSettings(Strict):
    """What is predicted: the name and unit shown in tables; `output` is how a regression's last number is
    read.

    `sigmoid`: the target is min-max scaled on train to [0, 1] and predicted through a sigmoid (g2d.md §2, our
    definition); `identity`: the target is standardised on train and predicted as it is.
    """

    name: str = "label"
    unit: str = ""
    output: Literal["sigmoid", "identity"] = "sigmoid"
