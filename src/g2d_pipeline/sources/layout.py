"""`Layout`, the base of all layouts: a raw folder → a manifest. A data set is a folder here and its YAML.

`sources/<name>/__init__.py`, or a module of another package, holds the layout's class, with its hooks and
the class of its options (of our own layouts: a class of `config/layouts.py`); `simulated` beside it makes the
sample, where there is one. A start-up imports the layout's class: pandas, numpy and the like belong into the
functions or into the folder's other modules."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from g2d_pipeline.config import IngestSettings, Task
from g2d_pipeline.config.base import Strict
from g2d_pipeline.config.layouts import LAYOUT_GROUP, LAYOUTS, ExternalLayout, RawSettings
from g2d_pipeline.errors import ConfigError, data_error, did_you_mean
from g2d_pipeline.plugins import find_class
from g2d_pipeline.sources.faults import BadRow, list_files
from g2d_pipeline.sources.simulated import Simulated

if TYPE_CHECKING:
    import pandas as pd

    from g2d_pipeline.sources.manifest import Manifest

R = TypeVar("R", bound=RawSettings)
PACKAGE = "g2d_pipeline.sources"
# Layouts that share a folder with another one; all others are `sources.<name>`.
MODULES = {"av_digits": "digits.av_digits", "spoken_mnist": "digits.spoken_mnist"}


@dataclass
class Samples:
    """What a layout has read: the manifest's `table` (see `manifest.Manifest`) and what is said about it."""

    table: "pd.DataFrame"
    class_names: Sequence[str] = ()
    dropped: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    group_disjoint: bool = False
    raw_dir: str | None = None  # where paths start, if that is not the layout's `raw_dir`
    columns: dict[str, list[str]] | None = None  # modality → its columns, if the settings have patterns


class Layout(ABC, Generic[R]):
    """One layout at one place: `raw` are its settings, `options` those that it alone has, `root` the folder
    of the data, which may be absent.

    Class attributes: `options_class`, which validates the `options` of a plug-in; `task`, the only one that
    the data have (None: any); `modalities` that the layout offers (None: any), each with one column of paths
    but those in `tables`, which have columns of values; `bundled`: the sample comes with the project, and
    there is no raw form; `simulated`: what the simulated sample is (None: there is none); `sample_note`: what
    the manifest of a sample says about it after "SAMPLE: "."""

    options_class: ClassVar[type[Strict]] = Strict
    task: ClassVar[Task | None] = None
    modalities: ClassVar[Sequence[str] | None] = None
    tables: ClassVar[Sequence[str]] = ()
    bundled: ClassVar[bool] = False
    simulated: ClassVar[Simulated | None] = None
    sample_note: ClassVar[str] = ""

    def __init__(self, raw: R, root: Path) -> None:
        self.raw, self.root = raw, root
        self.options: Any = raw
        if isinstance(raw, ExternalLayout):
            self.options = self.options_class.model_validate(raw.options)

    # ---------------------------------------------------------------------------------- hooks of each layout
    @abstractmethod
    def expected(self) -> str:
        """Which files are expected and how to get them, for messages."""

    @abstractmethod
    def raw_files(self) -> list[Path]:
        """Every file the manifest depends on, in a fixed order; empty where the data are not there."""

    def named_files(self, settings: IngestSettings, cache: Path | None) -> list[Path]:
        """Files beside `raw_files` that the manifest depends on, there or not. `cache`: of hashes."""
        return []

    def suggest(self) -> str:
        """A sentence on what may have been meant, where the raw files are not there."""
        return ""

    def with_folds(self) -> R:
        """The settings, with the number of folds where the data tell it."""
        return self.raw

    @property
    def draws_test(self) -> bool:
        """Whether the test split is drawn; else the data say what it is."""
        return False

    @abstractmethod
    def read_samples(self, settings: IngestSettings, columns: Mapping[str, str]) -> Samples:
        """The samples; `columns`: modality → its column of paths, for those that are asked for.

        Raises DataError naming file, row and remedy; ConfigError where the settings ask what is not there."""

    # ------------------------------------------------------------------------------ done once for all layouts
    @cached_property
    def files(self) -> list[str]:
        """Everything below `root` but the simulated sample: sorted relative posix paths, listed once."""
        return list_files(self.root, skip={"sample"})

    @property
    def sample_dir(self) -> str | None:
        """The folder of the simulated sample, relative to the project like `raw_dir`; None: there is none."""
        return None if self.simulated is None else f"{self.raw.raw_dir.rstrip('/')}/sample"

    @property
    def sample_size(self) -> Any:
        """Rows of each split of the simulated sample, or how many clips it has."""
        return getattr(self.options, "sample_rows", None) or self.options.sample_clips

    @property
    def sample_text(self) -> str:
        """What SAMPLE.txt says."""
        assert self.simulated is not None
        return self.simulated.text(f"{type(self).__module__}.simulated", self.sample_size, self.options.seed)

    def make_sample(self, folder: Path) -> None:
        """Write the simulated raw folder into an empty folder. DataError where it holds no raw file."""
        name = f"{type(self).__module__}.simulated"
        try:
            simulated = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            missing = f"{name.replace('.', '/')}.py with make(folder, size, seed) is missing"
            raise ConfigError(f"layout {self.raw.layout} says `simulated`, but {missing}.") from None
        simulated.make(folder, self.sample_size, self.options.seed)
        made = type(self)(self.raw, folder)
        if not made.raw_files():
            headline = f"The simulated sample of layout {self.raw.layout} holds no file that the layout reads"
            remedy = f"mend make(folder, …) in {name.replace('.', '/')}.py, or raw_files of the layout."
            raise data_error(headline, made.files, remedy)

    def read(self, settings: IngestSettings) -> "Manifest":
        """The validated manifest. Raises what `read_samples` raises; ConfigError: task or modality differ."""
        from g2d_pipeline.sources.manifest import build

        layout = f"{settings.dataset}: layout {self.raw.layout}"
        if self.task is not None and settings.task != self.task:
            raise ConfigError(f"{layout} is a {self.task}, not a {settings.task}.")
        samples = self.read_samples(settings, {} if self.modalities is None else self.media_columns(settings))
        if settings.source == "sample" and self.sample_note:
            samples.notes.insert(0, f"SAMPLE: {self.sample_note}")
        return build(
            samples.table,
            settings.model_copy(update={"columns": samples.columns or settings.columns}),
            raw_dir=samples.raw_dir or (settings.source == "sample" and self.sample_dir) or self.raw.raw_dir,
            class_names=list(samples.class_names),
            group_disjoint=samples.group_disjoint,
            dropped=[dict(vars(row)) for row in samples.dropped],
            notes=samples.notes,
        )

    def media_columns(self, settings: IngestSettings) -> dict[str, str]:
        """modality → its one column of paths. Raises ConfigError for a modality that the layout does not
        offer, and for a medium that has more than one column."""
        offered, dataset = self.modalities or (), settings.dataset
        for name, columns in settings.columns.items():
            if name not in offered:
                near, others = did_you_mean(name, offered), ", ".join(sorted(offered))
                raise ConfigError(
                    f"{dataset}: layout {self.raw.layout} has no modality {name!r}.{near} It has {others}. "
                    "Rename or remove it under `modalities`."
                )
            if name not in self.tables and len(columns) != 1:
                raise ConfigError(f"{dataset}: modality {name!r} has one column of paths, not {columns}.")
        return {name: columns[0] for name, columns in settings.columns.items() if name not in self.tables}

    def drop_or_raise(
        self, bad: Sequence[BadRow], total: int, settings: IngestSettings, what: str, remedy: str
    ) -> list[BadRow]:
        """The bad rows, to be dropped; DataError where they are more than `max_bad_fraction` of `total`."""
        if settings.source == "sample" and self.simulated is not None:
            remedy = f"delete {self.root}: the sample is made anew"
        share, allowed = len(bad) / max(total, 1), settings.max_bad_fraction
        if share > allowed:
            shares = f"{share:.2%}; max_bad_fraction allows {allowed:.2%}"
            headline = f"{len(bad)} of {total} {what} can not be used ({shares})"
            raise data_error(headline, bad, f"{remedy}, or set max_bad_fraction to drop such {what}.")
        return list(bad)


def layout_class(name: str) -> type[Layout[Any]]:
    """By its name: a folder of this package, an entry point or a dotted path. Raises ConfigError as
    `find_class`."""
    path, ours = f"{PACKAGE}.{MODULES[name]}" if name in MODULES else name, filter(None, LAYOUTS)
    return find_class(path, Layout, PACKAGE, LAYOUT_GROUP, ours)  # type: ignore[type-abstract]


def find_layout(raw: RawSettings, root: Path) -> Layout[Any]:
    """The layout that `raw` names, at `root`. Raises ConfigError where there is none."""
    return layout_class(raw.layout)(raw, root)
