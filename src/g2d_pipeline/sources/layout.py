"""`Layout`, the base of all layouts: a raw folder → a manifest. A data set is a folder here and its YAML.

`sources/<name>/__init__.py` holds the layout's class, with its hooks; its settings are a class of
`config/layouts.py`; `simulated` beside it makes the sample, where there is one. A start-up imports every
layout's class: pandas, numpy and the like belong into the functions or into the folder's other modules."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from g2d_pipeline.config import IngestSettings, Task
from g2d_pipeline.config.layouts import RawSettings
from g2d_pipeline.errors import ConfigError, data_error, did_you_mean
from g2d_pipeline.sources.faults import BadRow, list_files
from g2d_pipeline.sources.simulated import Simulated

if TYPE_CHECKING:
    import pandas as pd

    from g2d_pipeline.sources.manifest import Manifest

R = TypeVar("R", bound=RawSettings)
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
    """One layout at one place: `raw` are its settings, `root` the folder of the data, which may be absent.

    Class attributes: `task`, the only one that the data have (None: any); `modalities` that the layout offers
    (None: any), each with one column of paths but those in `tables`, which have columns of values; `bundled`:
    the sample comes with the project, and there is no raw form; `simulated`: what the simulated sample is
    (None: there is none); `sample_note`: what the manifest of a sample says about it after "SAMPLE: "."""

    task: ClassVar[Task | None] = None
    modalities: ClassVar[Sequence[str] | None] = None
    tables: ClassVar[Sequence[str]] = ()
    bundled: ClassVar[bool] = False
    simulated: ClassVar[Simulated | None] = None
    sample_note: ClassVar[str] = ""

    def __init__(self, raw: R, root: Path) -> None:
        self.raw, self.root = raw, root

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
        return getattr(self.raw, "sample_rows", None) or self.raw.sample_clips  # type: ignore[attr-defined]

    @property
    def sample_text(self) -> str:
        """What SAMPLE.txt says."""
        assert self.simulated is not None
        seed = self.raw.seed  # type: ignore[attr-defined]
        return self.simulated.text(f"{type(self).__module__}.simulated", self.sample_size, seed)

    def make_sample(self, folder: Path) -> None:
        """Write the simulated raw folder into an empty folder. DataError where it holds no raw file."""
        name = f"{type(self).__module__}.simulated"
        if util.find_spec(name) is None:
            missing = f"src/{name.replace('.', '/')}.py with make(folder, size, seed) is missing"
            raise ConfigError(f"layout {self.raw.layout} says `simulated`, but {missing}.")
        simulated = importlib.import_module(name)
        simulated.make(folder, self.sample_size, self.raw.seed)  # type: ignore[attr-defined]
        made = type(self)(self.raw, folder)
        if not made.raw_files():
            name = self.raw.layout
            headline = f"The simulated sample of layout {name} holds no file that the layout reads"
            remedy = f"mend make(folder, …) in src/g2d_pipeline/{layout_module(name)}/simulated.py, or "
            raise data_error(headline, made.files, f"{remedy}raw_files of the layout.")

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


def layout_module(name: str) -> str:
    """The module of a layout, relative to the package."""
    return f"sources.{MODULES.get(name, name)}"


def find_layout(raw: RawSettings, root: Path) -> Layout[Any]:
    """The layout that `raw` names, at `root`: the one class of its module that is a Layout.

    Raises ConfigError where there is no such folder, or no such class in its `__init__.py`."""
    name = f"g2d_pipeline.{layout_module(raw.layout)}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # the folder is there, and what it imports is not
        raise ConfigError(
            f"layout {raw.layout} has settings, but no code: src/{name.replace('.', '/')}/__init__.py is "
            "missing. See docs/own-data.md, “A layout of its own”."
        ) from None
    classes = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    layouts: list[type[Layout[Any]]] = [cls for cls in classes if issubclass(cls, Layout)]
    if not layouts:
        raise ConfigError(f"{module.__file__} defines no class derived from Layout.")
    return layouts[0](raw, root)
