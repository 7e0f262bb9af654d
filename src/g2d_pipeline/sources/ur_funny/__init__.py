"""UR-Funny: pickles of word-level features of TED talks → is the punchline humorous? (datasets.md §4)

The pickles are read once, by the restricted unpickler, and kept as open arrays beside them (`arrays`); the
cells of the manifest are rows of those."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from g2d_pipeline.config import IngestSettings
from g2d_pipeline.config.layouts import URFunny
from g2d_pipeline.errors import data_error, did_you_mean
from g2d_pipeline.sources.faults import BadRow
from g2d_pipeline.sources.layout import Layout, Samples
from g2d_pipeline.sources.simulated import Simulated

if TYPE_CHECKING:
    from g2d_pipeline.sources.ur_funny.arrays import Record

CLASSES = ("not_humorous", "humorous")
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


class URFunnyLayout(Layout[URFunny]):
    """The published folds (dev → val); cells `converted-<hash>/<modality>.npy#<row>`, and `steps`, a sample's
    length. Samples without text are dropped as published, and listed."""

    task = "classification"
    modalities = ("audio", "visual", "text")
    simulated = Simulated(
        "UR-Funny V2 (Hasan et al., EMNLP 2019)",
        "words, voices and faces\nare random numbers that know a little of the label.",
    )
    sample_note = "simulated features in UR-Funny's layout; no number from it means anything."

    def expected(self) -> str:
        pickles = ", ".join(names[0] for names in FORMS["sdk"].values())
        return (
            f"put the six pickles of UR-Funny V2 ({pickles}; linked from github.com/ROC-HCI/UR-FUNNY) "
            f"or MultiBench's humor.pkl into {self.raw.raw_dir}."
        )

    def raw_files(self) -> list[Path]:
        """The pickles, as far as they exist; never what is converted from them."""
        paths = [self.root / name for form in FORMS.values() for names in form.values() for name in names]
        return sorted(filter(Path.is_file, paths))

    def read_samples(self, settings: IngestSettings, columns: Mapping[str, str]) -> Samples:
        """The first call converts the pickles into arrays, later ones reuse them (`arrays.converted`).

        Raises DataError for files that are missing, of another layout, or refused by `pickles.load_plain`,
        for repeated ids, for too many bad samples, and where `root` can not be written."""
        import pandas as pd

        from g2d_pipeline.sources.ur_funny.arrays import COLUMNS, converted

        def drop(record: Record) -> list[BadRow]:
            remedy = f"replace the files in {self.root}"
            return self.drop_or_raise(record.bad, record.total, settings, "samples", remedy)

        form, files = self._find_files()
        folder, record = converted(self.root, form, files, self.raw.context, drop)
        table = pd.DataFrame(record.rows, columns=COLUMNS).astype({"target": "int64", "steps": "int64"})
        for modality, column in columns.items():
            cells = [f"{folder}/{modality}.npy#{row}" for row in range(len(table))]
            table.insert(len(table.columns) - 1, column, cells)
        return Samples(table, CLASSES, record.published + drop(record), list(record.notes))

    def _find_files(self) -> tuple[str, dict[str, str]]:
        """The form of the data and its files: content → name. DataError: no form is whole, or both are."""
        files: dict[str, dict[str, str]] = {}
        for form, contents in FORMS.items():
            for content, names in contents.items():
                same = [name for name in names if (self.root / name).is_file()]
                if len(same) > 1:
                    headline = f"{self.root} holds the same file under two names"
                    raise data_error(headline, same, "keep one of them.")
                if same:
                    files.setdefault(form, {})[content] = same[0]
        if len(files) > 1:
            both = [name for each in files.values() for name in each.values()]
            headline = f"{self.root} holds both forms of UR-Funny"
            raise data_error(headline, both, "keep one of them there: their features differ.")
        form = next(iter(files), "sdk")
        present = files.get(form, {})
        if missing := [names[0] for content, names in FORMS[form].items() if content not in present]:
            others = [name for name in self.files if name not in present.values()]
            old = f"{FIRST_VERSION} belongs to UR-Funny V1, which has other samples and features: "
            remedy = old * (FIRST_VERSION in others) + self.expected()
            listed = [f"{name}{did_you_mean(name, others)}" for name in missing]
            raise data_error(f"{self.root} is incomplete; missing", listed, remedy)
        return form, present
