"""UR-Funny: pickles of word-level features of TED talks → is the punchline humorous? (datasets.md §4)

The pickles are read once, by the restricted unpickler, and kept as open arrays beside them (`arrays`); the
cells of the manifest are rows of those."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from g2d_pipeline.errors import ConfigError, data_error, did_you_mean
from g2d_pipeline.sources.faults import drop_or_raise, list_files, media_columns
from g2d_pipeline.sources.simulated import data_dir

if TYPE_CHECKING:
    from g2d_pipeline.config import IngestSettings, LayoutSettings
    from g2d_pipeline.sources.manifest import Manifest

MODALITIES = ("audio", "visual", "text")
CLASSES = ["not_humorous", "humorous"]
# form (its reader: `readers.READERS`) → content → the file's names; the project's own README misspells one
FORMS: dict[str, dict[str, tuple[str, ...]]] = {
    "sdk": {
        "folds": ("data_folds.pkl",),
        "labels": ("humor_label_sdk.pkl",),
        "embeddings": ("word_embedding_list.pkl",),
        "text": ("language_sdk.pkl", "langauge_sdk.pkl"),
        "audio": ("covarep_features_sdk.pkl",),
        "visual": ("openface_features_sdk.pkl",),
    },
    "multibench": {"multibench": ("humor.pkl", "ur_funny.pkl")},
}
FIRST_VERSION = "word_embedding_indexes_sdk.pkl"


def expected(raw: LayoutSettings) -> str:
    pickles = ", ".join(names[0] for names in FORMS["sdk"].values())
    return (
        f"put the six pickles of UR-Funny V2 ({pickles}; linked from github.com/ROC-HCI/UR-FUNNY) "
        f"or MultiBench's humor.pkl into {raw.raw_dir}."
    )


def raw_files(root: Path, raw: LayoutSettings) -> list[Path]:
    """The pickles, as far as they exist; never what is converted from them."""
    names = sorted(name for form in FORMS.values() for names in form.values() for name in names)
    return [root / name for name in names if (root / name).is_file()]


def read(settings: IngestSettings, root: Path) -> Manifest:
    """The published folds (dev → val); cells `converted-<hash>/<modality>.npy#<row>`, and `steps`, a sample's
    length.

    The first call converts the pickles into that folder, later ones reuse it (`arrays.converted`). Samples
    without text are dropped as published, and listed; what can not be used counts towards `max_bad_fraction`.

    Raises DataError for files that are missing, of another layout, or refused by `pickles.load_plain`, for
    repeated ids, and where `root` can not be written; ConfigError where the settings ask what the layout does
    not have."""
    import pandas as pd

    from g2d_pipeline.config import URFunny
    from g2d_pipeline.sources.manifest import build
    from g2d_pipeline.sources.ur_funny.arrays import COLUMNS, converted

    raw = settings.raw
    assert isinstance(raw, URFunny)
    if settings.task != "classification":
        raise ConfigError(f"{settings.dataset}: layout ur_funny is a classification, not a {settings.task}.")
    columns = media_columns(settings, MODALITIES)
    form, files = _find(root, expected(raw))
    folder, record = converted(root, form, files, raw.context, settings.max_bad_fraction)
    dropped = drop_or_raise(
        record.bad, record.total, settings.max_bad_fraction, "samples", f"replace the files in {root}"
    )
    table = pd.DataFrame(record.rows, columns=COLUMNS).astype({"target": "int64", "steps": "int64"})
    for modality, column in columns.items():
        cells = [f"{folder}/{modality}.npy#{row}" for row in range(len(table))]
        table.insert(len(table.columns) - 1, column, cells)
    notes = list(record.notes)
    if settings.source == "sample":
        notes.insert(0, "SAMPLE: simulated features in UR-Funny's layout; no number from it means anything.")
    return build(
        table,
        settings,
        raw_dir=data_dir(settings),
        class_names=CLASSES,
        dropped=[*(row.as_dict() for row in record.published), *dropped],
        notes=notes,
    )


def _find(root: Path, remedy: str) -> tuple[str, dict[str, str]]:
    """The form of the data in `root` and its files: content → name. DataError: none is whole, or both are."""
    files: dict[str, dict[str, str]] = {}
    for form, contents in FORMS.items():
        for content, names in contents.items():
            same = [name for name in names if (root / name).is_file()]
            if len(same) > 1:
                raise data_error(f"{root} holds the same file under two names", same, "keep one of them.")
            if same:
                files.setdefault(form, {})[content] = same[0]
    if len(files) > 1:
        both = [name for each in files.values() for name in each.values()]
        headline = f"{root} holds both forms of UR-Funny"
        raise data_error(headline, both, "keep one of them there: their features differ.")
    form = next(iter(files), "sdk")
    present = files.get(form, {})
    if missing := [names[0] for content, names in FORMS[form].items() if content not in present]:
        others = [name for name in list_files(root, skip={"sample"}) if name not in present.values()]
        if FIRST_VERSION in others:
            remedy = f"{FIRST_VERSION} belongs to UR-Funny V1, which has other samples and features: {remedy}"
        listed = [f"{name}{did_you_mean(name, others)}" for name in missing]
        raise data_error(f"{root} is incomplete; missing", listed, remedy)
    return form, present
