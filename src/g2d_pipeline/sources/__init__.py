"""Raw layouts → manifest: one module a layout, found by its name, so that a new one is one file.

A layout's module `sources/<layout>.py` offers, with `raw` its settings model and `root` the folder of the
data:

- `read(settings, root) -> Manifest`
- `raw_files(root, raw) -> list[Path]`: every file the manifest depends on, sorted; empty where none of them
  is there
- `expected(raw) -> str`: which files are expected and how to get them, for messages
- optional `suggest(root, raw) -> str`: a sentence on what may have been meant, where the raw files are not
  there
- optional `BUNDLED = True`: the sample comes with the project, and there is no raw form

A layout whose sample is simulated has its module and its entry in `samples/`.

This module imports no pandas, numpy or torch: a run with nothing to do only asks it for signatures.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from g2d_pipeline.errors import ConfigError, data_error
from g2d_pipeline.sources.faults import list_files
from g2d_pipeline.sources.hashing import hash_files
from g2d_pipeline.sources.simulated import make_sample, sample_dir, sample_text

if TYPE_CHECKING:
    from g2d_pipeline.config import IngestSettings, LayoutSettings
    from g2d_pipeline.sources.manifest import Manifest

logger = logging.getLogger(__name__)

Source = Literal["raw", "sample"]
SAMPLE_TEXT = "SAMPLE.txt"
DATA_ENDINGS = (
    *(
        ".xlsx",
        ".xls",
        ".csv",
        ".tsv",
        ".jsonl",
        ".parquet",
        ".npy",
        ".pkl",
        ".jpg",
        ".jpeg",
        ".png",
        ".wav",
        ".mp3",
    ),
    *(
        ".flac",
        ".mp4",
        ".webm",
        ".mkv",
        ".flv",
        ".avi",
        ".mov",
        ".mpg",
        ".gz",
        ".zip",
        ".rar",
        ".7z",
        ".tar",
        ".tgz",
    ),
)

__all__ = ["Source", "ensure_sample", "locate", "read_raw", "signature"]


def locate(
    raw: LayoutSettings, wanted: Literal["auto", "raw", "sample"], project: Path
) -> tuple[Source, Path]:
    """Where the data come from: `raw` or `sample`, and that folder (a simulated sample may not have been made
    yet).

    `auto`: the raw folder if it holds raw files, else the sample. Raises DataError where what is wanted is
    not there (or where a raw folder holds data but not the layout's), ConfigError where the layout has no
    such source."""
    layout, module = raw.layout, _module(raw)
    base = project / Path(raw.raw_dir).expanduser()
    if base.exists() and not base.is_dir():
        raise data_error(f"raw_dir {raw.raw_dir!r} is a file, not a folder", [], module.expected(raw))
    sample = sample_dir(raw)
    if getattr(module, "BUNDLED", False):
        if wanted == "raw":
            raise ConfigError(
                f"source=raw: layout {layout} is the bundled sample and has no raw form. "
                "Choose a data set of your own (dataset=…), or source=auto."
            )
        if not module.raw_files(base, raw):
            raise data_error(f"The bundled sample is not in {raw.raw_dir!r}", [], module.expected(raw))
        return "sample", base
    if wanted == "sample":
        if sample is None:
            raise ConfigError(f"source=sample: layout {layout} has no sample. Use source=auto or source=raw.")
        return "sample", project / Path(sample).expanduser()
    if module.raw_files(base, raw):
        return "raw", base
    remedy = module.expected(raw)
    if hasattr(module, "suggest"):
        remedy += module.suggest(base, raw)
    deeper = sorted(d for d in base.iterdir() if d.name != "sample" and d.is_dir()) if base.is_dir() else []
    if found := [d.name for d in deeper if module.raw_files(d, raw)]:
        remedy += f" They are one folder deeper: set raw_dir to {raw.raw_dir.rstrip('/')}/{found[0]}."
    if sample is not None:
        remedy += " Or use the simulated sample: source=sample."
    if others := [f for f in list_files(base, skip={"sample"}) if f.lower().endswith(DATA_ENDINGS)]:
        raise data_error(
            f"raw_dir {raw.raw_dir!r} holds files, but not those of layout {layout}", others, remedy
        )
    if wanted == "raw" or sample is None:
        state = "is empty" if base.is_dir() else "does not exist"
        raise data_error(
            f"There are no raw data of layout {layout}: raw_dir {raw.raw_dir!r} {state}", [], remedy
        )
    return "sample", project / Path(sample).expanduser()


def ensure_sample(raw: LayoutSettings, root: Path) -> None:
    """Make the simulated sample at `root`, the folder that `locate` named, unless it is there as the settings
    ask.

    It is made beside and renamed when whole; equal settings give equal bytes. A folder there that is not such
    a sample is never touched: DataError."""
    if sample_dir(raw) is None:
        return
    text = sample_text(raw)
    if _text_of(root) == text:
        return
    import shutil
    import tempfile

    if root.exists() and _text_of(root) is None:
        headline = f"{root} is in the way of the simulated sample: it has no {SAMPLE_TEXT}"
        raise data_error(headline, [], "move it away, or set another raw_dir.")
    logger.info("Making the simulated sample of %s in %s …", raw.layout, root)
    root.parent.mkdir(parents=True, exist_ok=True)
    _sweep(root.parent)
    workshop = Path(tempfile.mkdtemp(prefix=".sample-", dir=root.parent))
    try:
        new, old = workshop / "new", workshop / "old"
        new.mkdir()
        make_sample(new, raw)
        (new / SAMPLE_TEXT).write_text(text, encoding="utf-8", newline="\n")
        if root.exists():
            root.replace(old)
        try:
            new.replace(root)
        except OSError:
            if _text_of(root) != text:  # another run has not just made the same one
                raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def read_raw(settings: IngestSettings, project: Path) -> Manifest:
    """The validated manifest of `settings.raw`; a simulated sample is made first where it is wanted and
    absent.

    Raises DataError naming file, row and remedy; ConfigError where the settings ask what the layout does not
    have."""
    source, root = locate(settings.raw, settings.source, project)
    if source != settings.source:
        raise ConfigError(f"source={settings.source}: layout {settings.raw.layout} has only source={source}.")
    if source == "sample":
        ensure_sample(settings.raw, root)
    manifest: Manifest = _module(settings.raw).read(settings, root)
    for note in manifest.meta["notes"]:
        logger.info("%s: %s", settings.dataset, note)
    if dropped := manifest.meta["dropped"]:
        logger.warning(
            "%s: %d samples are dropped; manifest.json lists them.", settings.dataset, len(dropped)
        )
    return manifest


def signature(raw: LayoutSettings, source: Source, root: Path, cache: Path | None = None) -> str:
    """A hash of the content of every file the manifest depends on, 32 hex digits; time stamps do not matter.

    `cache`: where hashes of unchanged files are remembered (see `hashing.hash_files`). Raises DataError where
    there are no such files: call `ensure_sample` first."""
    module = _module(raw)
    files = module.raw_files(root, raw)
    if not files:
        raise data_error(f"There are no files of layout {raw.layout} in {root}", [], module.expected(raw))
    return hash_files(files, root, f"{raw.layout}:{source}", cache)


def _module(raw: LayoutSettings) -> ModuleType:
    return importlib.import_module(f"{__name__}.{raw.layout}")


def _text_of(root: Path) -> str | None:
    """What SAMPLE.txt says; None where there is none."""
    try:
        return (root / SAMPLE_TEXT).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise data_error(
            f"{root / SAMPLE_TEXT} can not be read ({error})", [], "delete the folder."
        ) from None


def _sweep(folder: Path) -> None:
    """Remove workshops of killed runs, an hour old."""
    import shutil

    for entry in os.scandir(folder):
        if (
            entry.name.startswith(".sample-")
            and entry.is_dir()
            and time.time() - entry.stat().st_mtime > 3600
        ):
            shutil.rmtree(entry.path, ignore_errors=True)
