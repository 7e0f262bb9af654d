"""A folder of files as a table of samples: one sample a file name."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pandas as pd

from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.features.cells import images_in
from g2d_pipeline.features.inputs import Inputs
from g2d_pipeline.features.kinds import ColumnKind
from g2d_pipeline.sources.faults import list_files


def folder_table(folder: Path, inputs: Inputs) -> pd.DataFrame:
    """A row a sample: `sample_id` and a column a modality, null where it has no file.

    Where there are folders named as modalities, the files in them with the same path, but for the ending, are
    a sample (in a video's, folders of pictures count as files). Else all files with the same path, but for
    the ending, are one, and the ending says which modality each is of. Tabular modalities have no files.
    Raises ConfigError where two modalities have the same endings, DataError where nothing fits."""
    media = [m for m in inputs.modalities if inputs.kinds[m].columns is None]
    own = [m for m in media if (folder / m).is_dir()]
    files = list_files(folder)
    if own:
        files_of = [
            (m, f, str(PurePosixPath(f).relative_to(m).with_suffix("")))
            for m in own
            for f in _in(m, folder, files, inputs)
        ]
    else:
        endings = {m: inputs.kinds[m].endings for m in media}
        _refuse_shared(endings, folder)
        files_of = [
            (m, f, str(PurePosixPath(f).with_suffix("")))
            for f in files
            for m in media
            if PurePosixPath(f).suffix.lower() in endings[m]
        ]
    if not files_of:
        wanted = ", ".join(f"{m}/" for m in media)
        raise DataError(f"{folder} holds no file of the model's modalities: put them into folders {wanted}")
    rows: dict[str, dict[str, str]] = {}
    for m, file, stem in files_of:
        rows.setdefault(stem, {}).setdefault(m, file)
    table = pd.DataFrame([{"sample_id": stem, **rows[stem]} for stem in sorted(rows)])
    for m in [m for m in media if isinstance(inputs.kinds[m], ColumnKind) and m in table]:
        read = [None if pd.isna(f) else (folder / f).read_text(encoding="utf-8").strip() for f in table[m]]
        table[m] = pd.Series(read, dtype=object)
    return table


def _in(modality: str, folder: Path, files: list[str], inputs: Inputs) -> list[str]:
    """The files in a modality's folder; of a video's, in place of pictures in folders those folders."""
    inside = [f for f in files if f.startswith(f"{modality}/")]
    if not getattr(inputs.kinds[modality], "folders", False):
        return inside
    pictures = {str(PurePosixPath(f).parent) for f in inside if f.count("/") > 1}
    clips = {p for p in pictures if images_in(folder / p)}
    return sorted(clips | {f for f in inside if str(PurePosixPath(f).parent) not in clips})


def _refuse_shared(endings: Mapping[str, frozenset[str]], folder: Path) -> None:
    names = list(endings)
    for i, m in enumerate(names):
        if other := next((n for n in names[i + 1 :] if endings[m] & endings[n]), None):
            raise ConfigError(
                f"{folder}: files of {m!r} and {other!r} have the same endings: put them into folders {m}/ "
                f"and {other}/, or name them in a table."
            )
