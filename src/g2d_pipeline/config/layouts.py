"""What raw folders look like: one class a layout (raw → manifest)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, NonNegativeInt, PositiveInt, Tag, model_validator

from g2d_pipeline.config.base import SPLITS, Split, Strict


class AVDigits(Strict):
    """Bundled: scikit-learn's handwritten digits × spoken digits synthesised with espeak-ng; always a SAMPLE."""

    layout: Literal["av_digits"] = "av_digits"
    raw_dir: str
    seed: NonNegativeInt = 0  # of the pairing


class SpokenMNIST(Strict):
    """Real recordings (FSDD) × real handwriting (MNIST test images), paired by digit; pairs never cross splits.

    `test_takes` is FSDD's official test set; `val_takes` are held out of its training takes. `pairs`: how many pairs
    each split gets; images never repeat, recordings do where there are more pairs than recordings.
    """

    layout: Literal["spoken_mnist"] = "spoken_mnist"
    raw_dir: str
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


class MISME(Strict):
    """MIS-ME: XLSX label files + a flat image folder → volumetric water content (datasets.md §5.1).

    `sample_rows`: rows of the simulated sample per split, where the raw folder is absent.
    """

    layout: Literal["mis_me"] = "mis_me"
    raw_dir: str
    sample_rows: dict[Split, PositiveInt] = {"train": 160, "val": 40, "test": 45}
    seed: NonNegativeInt = 0


class CremaD(Strict):
    """CREMA-D (datasets.md §1): WAV + FLV (or extracted pictures) → 6 emotions.

    `split`: `published` is the field's 6,698 / 744 clips, of whose train part `val_fraction` is held out, stratified;
    `speakers`: no actor in two splits. `broken_clips`: the four whose video is known to be broken (§1.5), all of train.
    `sample_clips`: clips of the simulated sample.
    """

    layout: Literal["crema_d"] = "crema_d"
    raw_dir: str
    split: Literal["published", "speakers"] = "published"
    broken_clips: Literal["drop", "keep"] = "drop"
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    sample_clips: Annotated[int, Field(ge=36)] = 120
    seed: NonNegativeInt = 0


class AVMNIST(Strict):
    """AV-MNIST (datasets.md §2): six arrays → 10 digits. The last 5,000 train rows are val (MultiBench's split)."""

    layout: Literal["av_mnist"] = "av_mnist"
    raw_dir: str
    val_rows: PositiveInt = 5000
    sample_rows: dict[Split, PositiveInt] = {"train": 500, "val": 100, "test": 200}
    seed: NonNegativeInt = 0


class VGGSound(Strict):
    """VGGSound (datasets.md §3): the published CSV + whatever clips could be downloaded → 309 sounds."""

    layout: Literal["vggsound"] = "vggsound"
    raw_dir: str
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    sample_clips: Annotated[int, Field(ge=60)] = 120
    seed: NonNegativeInt = 0


class URFunny(Strict):
    """UR-Funny V2 (datasets.md §4): published pickles, read without executing anything → humour yes/no, k = 3."""

    layout: Literal["ur_funny"] = "ur_funny"
    raw_dir: str
    context: bool = False  # the sentences before the punchline, too
    sample_rows: dict[Split, PositiveInt] = {"train": 240, "val": 60, "test": 60}
    seed: NonNegativeInt = 0


class SplitFractions(Strict):
    """A split that is drawn: `val` and `test` are shares of the rows; `group` (a column) never crosses splits."""

    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    stratify: bool = True
    group: str | None = None
    seed: NonNegativeInt = 0


def _column_or_fractions(value: Any) -> str:
    return "str" if isinstance(value, str) else "SplitFractions"


SplitSettings = Annotated[
    Annotated[str, Tag("str")] | Annotated[SplitFractions, Tag("SplitFractions")], Discriminator(_column_or_fractions)
]


class Table(Strict):
    """Anybody's own data: one table (csv, tsv, jsonl, parquet, xlsx), a row a sample (datasets.md §6).

    `table`: the file, relative to `raw_dir`; `root`: where paths in it start (left out: the table's folder). `columns`:
    modality → its column of paths, or a template such as `images/{row}_front.jpg` of the row's number (`{row}` from 1,
    `{index}` from 0) and columns (`{name}`); tabular modalities have their own `columns`. `target`, `id`: columns.
    `split`: a column of train/val/test, or fractions. `classes`: the class names in order (left out: sorted). `names`:
    the columns of a text table without a header. `log_target`: the natural logarithm of the target is predicted.
    """

    layout: Literal["table"] = "table"
    raw_dir: str
    table: str = "metadata.csv"
    root: str | None = None
    columns: dict[str, str] = {}
    target: str
    id: str | None = None
    split: SplitSettings = SplitFractions()
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    names: list[str] | None = None
    log_target: bool = False


LayoutSettings = Annotated[
    AVDigits | SpokenMNIST | MISME | CremaD | AVMNIST | VGGSound | URFunny | Table, Field(discriminator="layout")
]


class TargetSettings(Strict):
    """What is predicted: the name and unit shown in tables; `output` is how a regression's last number is read.

    `sigmoid`: the target is min-max scaled on train to [0, 1] and predicted through a sigmoid (g2d.md §2, our
    definition); `identity`: the target is standardised on train and predicted as it is.
    """

    name: str = "label"
    unit: str = ""
    output: Literal["sigmoid", "identity"] = "sigmoid"
