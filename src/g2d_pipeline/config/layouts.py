"""What raw folders look like: one class a layout (raw → manifest)."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, NonNegativeInt, PositiveInt, Tag

from g2d_pipeline.config.base import SPLITS, ColumnName, Share, Split, Strict, by_tag, split_slashes

SplitSizes = dict[Split, PositiveInt]


class RawSettings(Strict):
    """What all layouts have: `raw_dir` is relative to the project unless absolute."""

    layout: str
    raw_dir: str

    def repeats(self, seed: int) -> dict[str, tuple[str, Self]]:
        """Suffix of the runs' names with a seed (`seed0`; `fold2/seed0`) → the name of the split ("": one
        for all; `fold2`) and these settings of that split alone."""
        return {f"seed{seed}": ("", self)}


class AVDigits(RawSettings):
    """Bundled: scikit-learn's handwritten digits × digits spoken by espeak-ng; always a SAMPLE."""

    layout: Literal["av_digits"] = "av_digits"
    seed: NonNegativeInt = 0  # of the pairing


class SpokenMNIST(RawSettings):
    """Real recordings (FSDD) × real handwriting (MNIST test images), paired by digit within a split.

    `test_takes` is FSDD's official test set; `val_takes` are held out of its training takes. `pairs` of each
    split: images never repeat, recordings do where there are more pairs than recordings."""

    layout: Literal["spoken_mnist"] = "spoken_mnist"
    pairs: SplitSizes = {"train": 2000, "val": 500, "test": 1000}
    test_takes: list[NonNegativeInt] = [0, 1, 2, 3, 4]
    val_takes: list[NonNegativeInt] = [5, 6, 7, 8, 9]
    seed: NonNegativeInt = 0

    def _problems(self) -> Iterator[str]:
        if both := set(self.test_takes) & set(self.val_takes):
            yield f"takes {sorted(both)} are in both test_takes and val_takes"
        if missing := [s for s in SPLITS if s not in self.pairs]:
            yield f"pairs lacks {missing}"


class MISME(RawSettings):
    """MIS-ME: XLSX label files + a flat image folder → volumetric water content (datasets.md §5.1).

    `sample_rows`: rows of the simulated sample per split, where the raw folder is absent."""

    layout: Literal["mis_me"] = "mis_me"
    sample_rows: SplitSizes = {"train": 160, "val": 40, "test": 45}
    seed: NonNegativeInt = 0


class CremaD(RawSettings):
    """CREMA-D (datasets.md §1): WAV + FLV (or extracted pictures) → 6 emotions.

    `split`: `published` is the field's 6,698 / 744 clips, of whose train part `val_fraction` is held out,
    stratified; `speakers`: no actor in two splits. `broken_clips`: the four whose video is known to be broken
    (§1.5), all of train. `sample_clips`: clips of the simulated sample."""

    layout: Literal["crema_d"] = "crema_d"
    split: Literal["published", "speakers"] = "published"
    broken_clips: Literal["drop", "keep"] = "drop"
    val_fraction: Share = 0.1
    sample_clips: Annotated[int, Field(ge=36)] = 120
    seed: NonNegativeInt = 0


class AVMNIST(RawSettings):
    """AV-MNIST (datasets.md §2): six arrays → 10 digits. The last train rows are val, as in MultiBench."""

    layout: Literal["av_mnist"] = "av_mnist"
    val_rows: PositiveInt = 5000
    sample_rows: SplitSizes = {"train": 500, "val": 100, "test": 200}
    seed: NonNegativeInt = 0


class VGGSound(RawSettings):
    """VGGSound (datasets.md §3): the published CSV + whatever clips could be downloaded → 309 sounds."""

    layout: Literal["vggsound"] = "vggsound"
    val_fraction: Share = 0.05
    sample_clips: Annotated[int, Field(ge=60)] = 120
    seed: NonNegativeInt = 0


class URFunny(RawSettings):
    """UR-Funny V2 (datasets.md §4): published pickles, read without executing anything → humour yes/no."""

    layout: Literal["ur_funny"] = "ur_funny"
    context: bool = False  # the sentences before the punchline, too
    sample_rows: SplitSizes = {"train": 240, "val": 60, "test": 60}
    seed: NonNegativeInt = 0


class HeldOut(Strict):
    """The samples of these groups: values of the split's column `group`, or what `group_pattern` finds."""

    group: Annotated[
        list[str], BeforeValidator(lambda names: [*map(str, split_slashes(names))]), Field(min_length=1)
    ]


Part = Annotated[
    Annotated[float, Field(gt=0, lt=1), Tag("share")] | Annotated[HeldOut, Tag("HeldOut")],
    Discriminator(lambda value: "HeldOut" if isinstance(value, dict | HeldOut) else "share"),
]


def _number_of_folds(value: Any) -> Any:
    if value in (None, "leave_one_out"):
        return value
    if not str(value).isdecimal() or int(value) < 2:
        raise ValueError("say how many, 2 or more, or leave_one_out")
    return int(value)


class SplitFractions(Strict):
    """A split that is drawn, or that `column` says, or of both: where a column (or files) says what train and
    test are, `val` is drawn from train.

    `val`, `test`: shares of the rows (None: 0.1 and 0.2), or their groups, as `{group: [a, b]}`; a share
    beside groups is one of the other rows. `group` (a column) never crosses splits; with the regular
    expression `group_pattern`, what that finds in the cell: `[A-Z]+` finds the `K` of `K12`. `folds`:
    cross-validation; each sample, or group, is test in one of so many splits (as many as groups:
    `leave_one_out`), or in `fold` (from 1) alone. `per_seed`: each seed of the run, which is added to `seed`,
    draws another split."""

    column: str | None = None
    val: Part | None = None
    test: Part | None = None
    stratify: bool = True
    group: str | None = None
    group_pattern: str | None = None
    seed: NonNegativeInt = 0
    folds: Annotated[int | str | None, BeforeValidator(_number_of_folds)] = None
    fold: PositiveInt | None = None
    per_seed: bool = False

    def _problems(self) -> Iterator[str]:
        yield from self._problems_of_folds()
        parts = {"val": self.val, "test": self.test}
        named = {name: part.group for name, part in parts.items() if isinstance(part, HeldOut)}
        if self.group is None:
            if self.group_pattern is not None:
                yield "group_pattern needs group: the column in whose cells it is looked for"
            for name in named:
                yield f"{name}.group names groups: say `group: <column>`, too, whose values they are"
        if both := set(named.get("val", ())) & set(named.get("test", ())):
            yield f"group {', '.join(sorted(both))} is named for both val and test"
        if self.column is not None:
            if self.test is not None:
                remedy = "remove test; or remove column, to have val and test drawn anew"
                yield f"column {self.column!r} says what test is: {remedy}"
            if self.val is None and self.group is not None:
                remedy = "give val, a share of train, or move group out of split, for the data report"
                yield f"nothing is drawn where column {self.column!r} says it all: {remedy}"
        if self.per_seed and (len(named) == 2 or (self.column is not None and self.val is None)):
            yield "per_seed draws a split for each seed, and nothing is drawn here: remove it"
        try:
            re.compile(self.group_pattern or "")
        except re.error as error:
            yield f"group_pattern is no regular expression: {error}"

    def _problems_of_folds(self) -> Iterator[str]:
        if self.folds is None:
            if self.fold is not None:
                yield "fold is one of folds: say how many, too, `folds: 5`"
            return
        if self.column is not None:
            yield f"folds draws test, and column {self.column!r} says what test is: remove one of the two"
        if self.test is not None or isinstance(self.val, HeldOut):
            key = "test" if self.test is not None else "val.group"
            yield f"folds tests each sample once: remove {key} (val may be a share of the rest)"
        if self.folds == "leave_one_out" and self.group is None:
            yield "folds = leave_one_out leaves out one group at a time: say `group: <column>`, too"
        if self.fold is not None and isinstance(self.folds, int) and self.fold > self.folds:
            yield f"fold = {self.fold}: there are {self.folds}"

    def each(self, seed: int) -> Iterator[tuple[str, Self]]:
        """(name, settings) of each split that is drawn for a seed of the run."""
        folds = [self.fold] if self.fold or not isinstance(self.folds, int) else range(1, self.folds + 1)
        for fold in folds:
            names = [f"fold{fold}"] * (fold is not None) + [f"seed{seed}"] * self.per_seed
            seeds = {"seed": self.seed + seed} if self.per_seed else {}
            yield "/".join(names), self.model_copy(update={"fold": fold, **seeds})


SplitSettings = Annotated[
    SplitFractions, BeforeValidator(lambda value: {"column": value} if isinstance(value, str) else value)
]


SPLIT_WORDS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


def split_of(file: str) -> Split | None:
    """The split that a file's name or else its folder names: `val` of `valid.csv` and `dev/metadata.csv`."""
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


TableFiles = Annotated[
    Annotated[str, Tag("str")] | Annotated[dict[Split, str], Tag("dict")],
    Discriminator(lambda value: "str" if isinstance(value, str) else "dict"),
    BeforeValidator(_by_split),
]


class Join(Strict):
    """Columns of a further table: for each row, those of the row with the same key (dates in any form).

    `key`: its column, or `{ours: theirs}` where it has two names (not `on`, which YAML reads as true).
    `means`: n → further columns `<name>_mean<n>`, the means of `<name>` over the last n days, the row's
    included; the key is a date. `align: row` in place of `key`: row i of the further table, or of an array
    `.npy`, belongs to row i. `names`: its columns, where it has no header (None: `<stem>_0`, …)."""

    table: str
    key: str | Annotated[dict[str, str], Field(min_length=1, max_length=1)] | None = None
    align: Literal["row"] | None = None
    names: list[ColumnName] | None = None
    means: Annotated[list[Annotated[int, Field(ge=2)]], BeforeValidator(split_slashes)] = []

    def _problems(self) -> Iterator[str]:
        if (self.key is None) == (self.align is None):
            yield f"{self.table}: say which rows belong together, `key: <column>` or `align: row`"
        if self.means and self.key is None:
            yield "means over days need a key, which is a date"

    @property
    def keys(self) -> tuple[str, str] | None:
        """The key's column here and in the further table; None: rows align."""
        key = {self.key: self.key} if isinstance(self.key, str) else self.key or {}
        return next(iter(key.items()), None)


class Table(RawSettings):
    """Any data in one table (csv, tsv, jsonl, parquet, xlsx), a row a sample (datasets.md §6).

    `table`: the file, relative to `raw_dir`; `sites/*.csv`: all such files, one below the other; or one for
    each split, `{train: …, val: …, test: …}` or a list whose names tell; None: `metadata.csv` (any ending),
    or `train.csv`, `val.csv` and `test.csv`, or a `metadata.csv` in folders `train`, `val` and `test`.
    `root`: where paths start (None: the table's folder). `columns`: modality → its column of paths or text,
    or a template such as `images/{row}_front.jpg` of the row's number (`{row}` from 1, `{index}` from 0) and
    columns (`{name}`); tabular modalities have `columns` themselves. `target`, `id`: columns. `split`: a
    column of train/val/test, or how the split is drawn (None: the defaults, unless there is a table for each
    split). `classes`: the class names in order (None: sorted). `names`: the columns of a text table without a
    header. `log_target`: the natural logarithm of the target is predicted. `join`: further tables that add
    columns. `labelled_only`: rows without a target are left out and counted, rather than faults. `group`: a
    column that says who or where a sample is of, where the split is given: the data report tells which of its
    values are in several splits."""

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

    def _problems(self) -> Iterator[str]:
        if isinstance(self.table, dict):
            missing = [s for s in SPLITS if s not in self.table]
            if missing and (missing != ["val"] or self.split is None or self.split.val is None):
                drawn = "; or have val drawn from train: `split: {val: 0.1}`" * (missing == ["val"])
                names = f"name a table for each of {', '.join(SPLITS)}"
                yield f"table lacks {', '.join(missing)}: {names}{drawn}"
            if len(set(self.table.values())) < len(self.table):
                yield "table names the same file for two splits: each needs one of its own"
            if self.split is not None and len(self.table) == len(SPLITS):
                yield "there is a table for each split: remove `split`, or put all rows into one table"
        if self.group is not None and self.split is not None and self.split.group is not None:
            yield "split.group keeps the groups apart, and is reported: remove `group`"

    def repeats(self, seed: int) -> dict[str, tuple[str, Self]]:
        if self.split is None:
            return super().repeats(seed)
        splits = {name: self.model_copy(update={"split": s}) for name, s in self.split.each(seed)}
        suffix = "" if self.split.per_seed else f"/seed{seed}"
        return {f"{name}{suffix}".lstrip("/"): (name, table) for name, table in splits.items()}


class ExternalLayout(RawSettings):
    """A layout without settings here: a folder of `sources`, an entry point or a dotted path; its
    `options_class` is called with the `options`."""

    layout: str = ""
    options: dict[str, Any] = {}


LAYOUT_GROUP = "g2d_pipeline.layouts"  # of entry points: layouts of other packages, by name
LAYOUTS: dict[str, type[RawSettings]] = {
    cls.model_fields["layout"].default: cls
    for cls in (AVDigits, SpokenMNIST, MISME, CremaD, AVMNIST, VGGSound, URFunny, Table, ExternalLayout)
}
if TYPE_CHECKING:
    LayoutSettings = RawSettings
else:
    LayoutSettings = by_tag("layout", LAYOUTS, "sources", LAYOUT_GROUP)


class TargetSettings(Strict):
    """Name and unit of what is predicted, as tables show them; `output` of a regression: `sigmoid`: the
    target is min-max scaled on train to [0, 1] and predicted through a sigmoid (g2d.md §2, our definition),
    so that no prediction leaves the range of train; `identity`: standardised on train; `auto`: sigmoid where
    all train targets lie in [0, 1], else identity."""

    name: str = "label"
    unit: str = ""
    output: Literal["auto", "sigmoid", "identity"] = "auto"
