"""The fixed evaluation set: test samples that a registered model was measured on, which new data never enter.

While it exists, ingest keeps these samples in test and nothing else, whatever split is drawn of the grown
data; so the versions of a model are compared on the same samples (see docs/retrain.md)."""

import json
from pathlib import Path

from g2d_pipeline.config import IngestSettings
from g2d_pipeline.errors import DataError, data_error
from g2d_pipeline.files import atomic_write
from g2d_pipeline.sources.manifest import Manifest, build


def write_evaluation_set(file: Path, manifest: Manifest) -> None:
    """Fix the test samples of `manifest` as the evaluation set."""
    meta, table = manifest.meta, manifest.table
    ids = table.loc[table["split"] == "test", "sample_id"].tolist()
    text = json.dumps({"source": meta["source"], "sample_ids": ids}, indent=0, ensure_ascii=False) + "\n"
    with atomic_write(file) as path:
        path.write_text(text, encoding="utf-8")


def read_evaluation_set(file: Path, source: str) -> list[str] | None:
    """The ids of the fixed evaluation set of data of this `source` (raw or sample); None: there is none.
    Raises DataError where the file is damaged."""
    try:
        content = json.loads(file.read_bytes())
        return [str(name) for name in content["sample_ids"]] if content["source"] == source else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{file} is damaged ({type(error).__name__}: {error}). Copy it from the folder of a registered "
            "version (`evaluation_set.json`), or delete it to have a new evaluation set."
        ) from None


def keep_evaluation_set(
    manifest: Manifest, settings: IngestSettings, file: Path, draws_test: bool
) -> Manifest:
    """The manifest with the fixed evaluation set of `file` as its test split; as it is where there is none.

    `draws_test`: new rows of the test split are train; else, where the data say what is test, they are left
    out. So are all new rows of a group that the set has, where groups are kept apart. Raises DataError where
    samples of the set are missing from the data."""
    ids = read_evaluation_set(file, settings.source)
    if ids is None:
        return manifest
    meta, table = manifest.meta, manifest.table
    fixed = table["sample_id"].isin(ids)
    if lost := sorted(set(ids) - set(table["sample_id"])):
        headline = f"{len(lost)} of {len(ids)} samples of the fixed evaluation set are not in the data"
        remedy = (
            f"bring them back; or delete {file.name} in data/09_registry/{settings.dataset} to fix a new "
            "evaluation set, on which registered versions can not be compared with new ones."
        )
        raise data_error(headline, lost, remedy)
    new = (table["split"] == "test") & ~fixed
    out = new & (not draws_test)
    if meta["group_disjoint"]:
        out |= ~fixed & table["group"].isin(table.loc[fixed, "group"])
    split = table["split"].mask(new, "train").mask(fixed, "test")
    if split.equals(table["split"]) and not out.any():
        return manifest
    notes = list(meta["notes"])
    if count := int(out.sum()):
        notes.append(f"Warning: {count} new rows are of the evaluation set's split or groups: left out.")
    return build(
        table.assign(split=split)[~out],
        settings.model_copy(update={"columns": meta["columns"]}),
        raw_dir=meta["raw_dir"],
        class_names=meta["class_names"],
        group_disjoint=meta["group_disjoint"],
        dropped=meta["dropped"],
        notes=notes,
    )
