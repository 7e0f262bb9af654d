"""UR-Funny: pickles of word-level features of TED talks → is the punchline humorous? (datasets.md §4)

The pickles are read once, by the restricted unpickler, and kept as open arrays beside them
(`ur_funny_arrays`); what the manifest points to are rows of those."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from g2d_pipeline.errors import ConfigError, data_error
from g2d_pipeline.sources.faults import drop_or_raise, list_files, media_columns, nearest
from g2d_pipeline.sources.simulated import data_dir

if TYPE_CHECKING:
    from g2d_pipeline.config import IngestSettings, LayoutSettings
    from g2d_pipeline.sources.manifest import Manifest

MODALITIES = ("audio", "visual", "text")
CLASSES = ["not_humorous", "humorous"]
# what it holds → the names it goes by; the project's own README misspells the language file
SDK = {
    "folds": ("data_folds.pkl",),
    "labels": ("humor_label_sdk.pkl",),
    "embeddings": ("word_embedding_list.pkl",),
    "language": ("language_sdk.pkl", "langauge_sdk.pkl"),
    "audio": ("covarep_features_sdk.pkl",),
    "visual": ("openface_features_sdk.pkl",),
}
MULTIBENCH = ("humor.pkl", "ur_funny.pkl")
FIRST_VERSION = "word_embedding_indexes_sdk.pkl"


def expected(raw: LayoutSettings) -> str:
    return (
        f"put the six pickles of UR-Funny V2 ({', '.join(names[0] for names in SDK.values())}; linked from "
        f"github.com/ROC-HCI/UR-FUNNY) or MultiBench's {MULTIBENCH[0]} into {raw.raw_dir}."
    )


def raw_files(root: Path, raw: LayoutSettings) -> list[Path]:
    """The pickles, as far as they are there; never what is converted from them."""
    names = sorted(name for group in (*SDK.values(), MULTIBENCH) for name in group)
    return [root / name for name in names if (root / name).is_file()]


def read(settings: IngestSettings, root: Path) -> Manifest:
    """The published folds (dev → val); cells `converted-<hash>/<modality>.npy#<row>`, and `steps`, a sample's
    length.

    The first call converts the pickles into that folder, later ones find it (`ur_funny_arrays.converted`).
    Samples without text are dropped as published, and listed; what can not be used counts towards
    `max_bad_fraction`.

    Raises DataError for files that are missing, of another layout, or refused by `pickles.load_plain`, for
    repeated ids, and where `root` can not be written; ConfigError where the settings ask what the layout does
    not have."""
    import pandas as pd

    from g2d_pipeline.config import URFunny
    from g2d_pipeline.sources.manifest import build
    from g2d_pipeline.sources.ur_funny_arrays import converted

    raw = settings.raw
    assert isinstance(raw, URFunny)
    if settings.task != "classification":
        raise ConfigError(f"{settings.dataset}: layout ur_funny is a classification, not a {settings.task}.")
    columns = media_columns(settings, MODALITIES)
    files = _find(root, raw)
    folder, record = converted(root, files, raw.context, settings.max_bad_fraction)
    dropped = drop_or_raise(
        record.bad, record.total, settings.max_bad_fraction, "samples", f"replace the files in {root}"
    )
    table = pd.DataFrame({"sample_id": record.ids, "split": record.splits})
    table["target"] = pd.Series(record.targets, dtype="int64")
    for modality, column in columns.items():
        table[column] = [f"{folder}/{modality}.npy#{row}" for row in range(len(record.ids))]
    table["steps"] = pd.Series(record.steps, dtype="int64")
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


def _find(root: Path, raw: LayoutSettings) -> dict[str, str]:
    """What a file holds → its name in `root`: the six of `SDK`, or `multibench` alone. DataError: none is
    whole."""
    found = {what: _one(root, names) for what, names in {**SDK, "multibench": MULTIBENCH}.items()}
    whole = found.pop("multibench")
    six = {what: name for what, name in found.items() if name is not None}
    if whole and six:
        headline = f"{root} holds both forms of UR-Funny"
        raise data_error(headline, [whole, *six.values()], "keep one of them there: their features differ.")
    if whole:
        return {"multibench": whole}
    if missing := [SDK[what][0] for what in SDK if what not in six]:
        there = [name for name in list_files(root, skip={"sample"}) if name not in six.values()]
        named = [f"{name}{nearest(name, there)}" for name in missing]
        remedy = expected(raw)
        if FIRST_VERSION in there:
            remedy = f"{FIRST_VERSION} belongs to UR-Funny V1, which has other samples and features: {remedy}"
        raise data_error(f"{root} is incomplete; missing", named, remedy)
    return six


def _one(root: Path, names: Sequence[str]) -> str | None:
    """Which of `names` is in `root`; DataError where two are."""
    there = [name for name in names if (root / name).is_file()]
    if len(there) > 1:
        raise data_error(f"{root} holds the same file under two names", there, "keep one of them.")
    return there[0] if there else None
