"""Raw layouts → manifest: one folder a layout, found by its name (see `layout.Layout`).

This module imports no pandas, numpy or torch: a run with nothing to do only asks it for signatures."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from g2d_pipeline.config import IngestSettings, LayoutSettings
from g2d_pipeline.config.layouts import RawSettings
from g2d_pipeline.errors import ConfigError, data_error
from g2d_pipeline.files import atomic_folder
from g2d_pipeline.remote import local_folder
from g2d_pipeline.sources.faults import FEW_FOLDERS, list_files
from g2d_pipeline.sources.hashing import hash_files
from g2d_pipeline.sources.layout import Layout, find_layout
from g2d_pipeline.sources.simulated import SAMPLE_TEXT, text_of

if TYPE_CHECKING:
    from g2d_pipeline.sources.manifest import Manifest

logger = logging.getLogger(__name__)

Source = Literal["raw", "sample"]
DATA_ENDINGS = (
    ".xlsx", ".xls", ".csv", ".tsv", ".jsonl", ".parquet", ".npy", ".pkl", ".jpg", ".jpeg", ".png", ".wav",
    ".mp3", ".flac", ".mp4", ".webm", ".mkv", ".flv", ".avi", ".mov", ".mpg", ".gz", ".zip", ".rar", ".7z",
    ".tar", ".tgz",
)  # fmt: skip


def locate(
    raw: LayoutSettings, requested: Literal["auto", "raw", "sample"], project: Path
) -> tuple[Source, Path]:
    """Where the data come from: `raw` or `sample`, and that folder (the sample may not have been made yet).

    `auto`: the raw folder if it holds raw files, else the sample. Raises DataError where what is requested is
    not there, or a raw folder holds other data; ConfigError where the layout has no such source."""
    base = local_folder(project, raw.raw_dir)
    layout = find_layout(raw, base)
    if base.exists() and not base.is_dir():
        raise data_error(f"raw_dir {raw.raw_dir!r} is a file, not a folder", [], layout.expected())
    if layout.bundled:
        if requested == "raw":
            raise ConfigError(
                f"source=raw: layout {raw.layout} is the bundled sample and has no raw form. "
                "Choose a data set of your own (dataset=…), or source=auto."
            )
        if not layout.raw_files():
            raise data_error(f"The bundled sample is not in {raw.raw_dir!r}", [], layout.expected())
        return "sample", base
    if requested == "sample" and layout.sample_dir is None:
        raise ConfigError(f"source=sample: layout {raw.layout} has no sample. Use source=auto or source=raw.")
    if requested != "sample":
        if layout.raw_files():
            return "raw", base
        _check_absent(layout, requested)
    return "sample", local_folder(project, str(layout.sample_dir))


def _check_absent(layout: Layout[RawSettings], requested: str) -> None:
    """DataError where the folder without raw files holds other data, or where there is no sample to take."""
    raw, base = layout.raw, layout.root
    remedy = layout.expected() + layout.suggest()
    folders = sorted(d for d in base.iterdir() if d.name != "sample" and d.is_dir()) if base.is_dir() else []
    if deeper := next((d.name for d in folders if find_layout(raw, d).raw_files()), None):
        remedy += f" They are one folder deeper: set raw_dir to {raw.raw_dir.rstrip('/')}/{deeper}."
    if layout.sample_dir is not None:
        remedy += " Or use the simulated sample: source=sample."
    near = list_files(base, skip={"sample"}, at_most=FEW_FOLDERS)
    if others := [f for f in near if f.lower().endswith(DATA_ENDINGS)]:
        headline = f"raw_dir {raw.raw_dir!r} holds files, but not those of layout {raw.layout}"
        raise data_error(headline, others, remedy)
    if requested == "raw" or layout.sample_dir is None:
        state = "is empty" if base.is_dir() else "does not exist"
        headline = f"There are no raw data of layout {raw.layout}: raw_dir {raw.raw_dir!r} {state}"
        raise data_error(headline, [], remedy)


def ensure_sample(raw: LayoutSettings, root: Path) -> None:
    """Make the simulated sample at `root`, the folder that `locate` named, whole or not at all, unless it is
    there as the settings ask. Equal settings give equal bytes.

    Raises DataError where a folder is there that is no such sample: it is never touched."""
    layout = find_layout(raw, root)
    if layout.simulated is None or (text := text_of(root)) == layout.sample_text:
        return
    if root.exists() and text is None:
        headline = f"{root} is in the way of the simulated sample: it has no {SAMPLE_TEXT}"
        raise data_error(headline, [], "move it away, or set another raw_dir.")
    logger.info("Making the simulated sample in %s …", root)
    try:
        with atomic_folder(root) as new:
            layout.make_sample(new)
            (new / SAMPLE_TEXT).write_text(layout.sample_text, encoding="utf-8", newline="\n")
    except OSError:
        if text_of(root) != layout.sample_text:  # another run has not just made the same one
            raise


def read_raw(
    settings: IngestSettings,
    project: Path,
    logged: set[str] | None = None,
    evaluation_set: Path | None = None,
) -> "Manifest":
    """The validated manifest of `settings.raw`; a simulated sample is made where it is requested and absent.
    `evaluation_set`: the file of the fixed one, which may be absent.

    Notes are logged, but for those in `logged`, where they are added. Raises what `Layout.read` raises."""
    source, root = locate(settings.raw, settings.source, project)
    if source != settings.source:
        raise ConfigError(f"source={settings.source}: layout {settings.raw.layout} has only source={source}.")
    if source == "sample":
        ensure_sample(settings.raw, root)
    layout = find_layout(settings.raw, root)
    manifest = layout.read(settings)
    if evaluation_set is not None and evaluation_set.exists():
        from g2d_pipeline.sources.evaluation_set import keep_evaluation_set

        manifest = keep_evaluation_set(manifest, settings, evaluation_set, layout.draws_test)
    logged = set() if logged is None else logged
    notes = list(manifest.meta["notes"])
    if dropped := manifest.meta["dropped"]:
        notes.append(f"Warning: {len(dropped)} samples are dropped; manifest.json lists them.")
    for note in (note for note in notes if note not in logged):
        level = logging.WARNING if note.startswith("Warning: ") else logging.INFO
        logger.log(level, "%s: %s", settings.dataset, note)
    logged.update(notes)
    return manifest


def signature(
    raw: LayoutSettings,
    source: Source,
    root: Path,
    cache: Path | None = None,
    settings: IngestSettings | None = None,
) -> str:
    """A hash of the content of every file the manifest depends on, 32 hex digits; time stamps do not matter.

    `cache`: where hashes of unchanged files are remembered (see `hashing.hash_files`). `settings`: with them
    the files that a table names count, too. Raises DataError where there are no such files (call
    `ensure_sample` first), or where a table can not be read."""
    layout = find_layout(raw, root)
    files = layout.raw_files()
    if not files:
        raise data_error(f"There are no files of layout {raw.layout} in {root}", [], layout.expected())
    named = [] if settings is None else layout.named_files(settings, cache)
    present = {path: os.path.exists(path) for path in named}  # noqa: PTH110 - what may not be read is absent
    absent = [os.path.relpath(path, root) for path in named if not present[path]]
    files = list(dict.fromkeys([*files, *(path for path in named if present[path])]))
    return hash_files(files, root, "\0".join([f"{raw.layout}:{source}", *absent]), cache)
