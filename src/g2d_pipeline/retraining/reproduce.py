"""A registered version, trained again from its lineage: the same bits, or how far off they are."""

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g2d_pipeline.artefacts import Models, TrainedFolder, write_trained
from g2d_pipeline.cards import versions
from g2d_pipeline.config import RetrainRun
from g2d_pipeline.configuration import Configuration
from g2d_pipeline.errors import DataError, data_error
from g2d_pipeline.features.store import FeatureStore, open_store
from g2d_pipeline.files import content_hash
from g2d_pipeline.registry.store import Registry
from g2d_pipeline.remote import local_folder
from g2d_pipeline.resolve import resolve
from g2d_pipeline.retraining.lineage import FILE, LOCK, commit, cpu_name
from g2d_pipeline.sources import locate
from g2d_pipeline.sources.hashing import content_hashes
from g2d_pipeline.sources.manifest import Manifest, read_manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reproduction:
    """`weight`: the one that differs most, by `difference`; empty where every bit is the same. `notes`: what
    has changed since, in sentences."""

    version: int
    weight: str
    difference: float
    notes: list[str]

    @property
    def identical(self) -> bool:
        return not self.weight

    def __str__(self) -> str:
        result = "every weight has the same bits"
        if self.weight:
            result = f"the weights differ, most of all {self.weight}, by {self.difference:.3g}"
        return "\n".join([f"Version {self.version}, trained again: {result}.", *self.notes])


def reproduce(version: str, settings: RetrainRun) -> Reproduction:
    """Train a registered version (a number or an alias) again from its manifest, its parameters and the raw
    files that it names, and compare the weights. The new model is not kept.

    Raises DataError for an unknown version, and where raw files or weights to start from are gone or have
    changed, naming them."""
    project, dataset = Path(settings.options.project), settings.dataset
    registered = Registry(settings.settings.registry, project).get(dataset, version)
    if registered is None:
        raise DataError(f"{dataset} has no version {version}: `kedro models history --dataset {dataset}`.")
    folder = registered.folder()
    lineage, manifest = json.loads((folder / FILE).read_bytes()), read_manifest(folder / "manifest")
    c = _configuration(lineage, project)
    _check_files(manifest, lineage, local_folder(project, manifest.meta["raw_dir"]))
    _check_weights(lineage, c)
    scratch = project / "data" / "09_registry" / dataset
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".reproduce-", dir=scratch) as temporary:
        again = _train(c, lineage, manifest, folder, Path(temporary))
        weight, difference = _compare(folder, again)
    return Reproduction(registered.number, weight, difference, _notes(lineage, project))


def _configuration(lineage: dict[str, Any], project: Path) -> Configuration:
    """The configuration that the version was trained with, for its seed alone."""
    files, overrides = lineage["parameters"]["files"], lineage["parameters"]["overrides"]
    overrides = {k: v for k, v in overrides.items() if k not in ("seed", "seeds", "rebuild", "wait")}
    overrides["seeds"] = [lineage["seed"]]
    return resolve(files, overrides, lambda raw, wanted: locate(raw, wanted, project), None, project)


def _check_files(manifest: Manifest, lineage: dict[str, Any], root: Path) -> None:
    """Raise DataError, naming them, where files that the manifest names are gone or have changed."""
    cells: set[str] = set()
    for m, columns in manifest.meta["columns"].items():
        if manifest.meta["kinds"].get(m) not in ("tabular", "text"):
            for column in columns:
                cells |= {str(cell).partition("#")[0] for cell in manifest.table[column]}
    faults = []
    for name, digest in lineage["raw_files"].items():
        if name in cells or any(str(parent) in cells for parent in Path(name).parents):
            if not (root / name).is_file():
                faults.append(f"{name} is gone")
            elif content_hashes([root / name], None)[root / name][1] != digest:
                faults.append(f"{name} has changed")
    if faults:
        headline = f"{len(faults)} raw files are not those that the version was trained on"
        raise data_error(headline, faults, f"bring them back to {root}.")


def _check_weights(lineage: dict[str, Any], c: Configuration) -> None:
    for m, file in c.weights.items():
        if content_hash(file) != lineage["inputs"].get(f"weights/{m}"):
            headline = f"The weights {file} that {m} starts from are not those of the version"
            raise data_error(headline, [], "bring the file back.")


def _train(
    c: Configuration, lineage: dict[str, Any], manifest: Manifest, version: Path, scratch: Path
) -> Path:
    """The folder of the student, with its features and teachers made anew."""
    from g2d_pipeline.pipelines.distill import train_students
    from g2d_pipeline.pipelines.featurize import featurize_modalities
    from g2d_pipeline.pipelines.teachers import train_teachers

    features = scratch / "features"
    features.mkdir()
    featurize_modalities({"": manifest}, c.featurize())[""](features, [])
    stores: dict[str, FeatureStore] = {"": open_store(features)}
    run, start = lineage["run"], version / "start.safetensors"
    settings = c.distill().model_copy(update={"start": start if start.exists() else None})
    teachers: Models = {}
    if settings.runs[run].needs_teachers:
        for name, make in train_teachers(stores, c.teachers()).items():
            m = name.partition("/")[0]
            if m in settings.runs[run].encoders:
                threads = lineage["threads"][f"teachers/{m}"]
                teachers[name] = TrainedFolder(_made(scratch / name.replace("/", "-"), make, threads))
    make = train_students(stores, teachers, settings)[run]
    return _made(scratch / "student", make, lineage["threads"][f"students/{run}"])


def _made(folder: Path, make: Any, threads: int | None) -> Path:
    """The folder of a model trained with this many threads of torch."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    folder.mkdir()
    try:
        write_trained(folder, make(folder))
    finally:
        torch.set_num_threads(before)
    return folder


def _compare(version: Path, again: Path) -> tuple[str, float]:
    """The weight that differs most, and by how much; "" and 0 where all bits are the same."""
    import torch
    from safetensors.torch import load_file

    old, new = (load_file(folder / "model.safetensors") for folder in (version, again))
    if old.keys() != new.keys():
        return min(old.keys() ^ new.keys()), float("inf")
    differences = {
        name: float((old[name].double() - new[name].double()).abs().max())
        for name in old
        if not torch.equal(old[name], new[name])
    }
    return max(differences.items(), key=lambda item: item[1], default=("", 0.0))


def _notes(lineage: dict[str, Any], project: Path) -> list[str]:
    current = {"processor": cpu_name(), "commit": commit(project)["commit"], **versions()}
    recorded = {"processor": lineage["machine"]["cpu"], "commit": lineage["commit"], **lineage["versions"]}
    changed = [name for name, value in recorded.items() if value != current.get(name)]
    notes = [f"{name} was {recorded[name]}, is {current.get(name)}." for name in changed]
    lock = project / LOCK
    if lineage["lock"] and (not lock.exists() or content_hash(lock) != lineage["lock"]):
        notes.append(f"{LOCK} has changed.")
    if lineage.get("dirty"):
        notes.append("It was trained with changes of the code that no commit has.")
    return notes
