"""The folder of a version: a trained model with all that comparing, explaining and rebuilding it needs."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g2d_pipeline.artefacts import TrainedFolder
from g2d_pipeline.config import RetrainRun
from g2d_pipeline.evaluation.records import Run
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.files import evaluation_set_file
from g2d_pipeline.registry.evidence import write_evidence
from g2d_pipeline.registry.model_card import CARD, model_card
from g2d_pipeline.registry.reference import write_reference
from g2d_pipeline.remote import local_folder
from g2d_pipeline.retraining.lineage import FILE, Lineage
from g2d_pipeline.sources.evaluation_set import read_evaluation_set, write_evaluation_set
from g2d_pipeline.sources.hashing import cache_file
from g2d_pipeline.sources.manifest import Manifest, write_manifest

LEFT_OUT = ("outputs", "checkpoints", "logs")  # of a trained folder: large, or of the training alone


@dataclass(frozen=True)
class Challenger:
    """A student that may be registered: the `name` of its run, its record, its folder, and what it was made
    from and measured by."""

    name: str
    run: Run
    trained: TrainedFolder
    manifest: Manifest
    store: FeatureStore
    evaluation: Mapping[str, Any]  # metrics.json
    data: Mapping[str, Any]  # data_report.json


def write_version(folder: Path, challenger: Challenger, settings: RetrainRun, lineage: Lineage) -> None:
    """Write the folder of a version into the empty `folder`: model, evidence on the fixed evaluation set,
    reference of the gates, manifest, report, lineage and model card."""
    project = Path(settings.options.project)
    shutil.copytree(
        challenger.trained.path, folder, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True
    )
    write_manifest(challenger.manifest, folder / "manifest")
    fixed = evaluation_set_file(project, settings.dataset)
    if fixed.exists():
        shutil.copyfile(fixed, folder / fixed.name)
    else:
        write_evaluation_set(folder / fixed.name, challenger.manifest)
    ids = read_evaluation_set(folder / fixed.name, settings.source)
    write_evidence(
        folder, challenger.run, challenger.trained, challenger.run.samples, ids, store=challenger.store
    )
    root = local_folder(project, challenger.manifest.meta["raw_dir"])
    hashes = cache_file(project, settings.dataset)
    write_reference(folder, challenger.manifest, root, settings.settings.gates, hashes=hashes)
    (folder / "evaluation").mkdir()
    for name in ("report.html", "metrics.json"):
        shutil.copyfile(lineage.evaluation / name, folder / "evaluation" / name)
    start = lineage.plan.configuration.start
    if start is not None and start.exists():
        shutil.copyfile(start, folder / start.name)
    made_from = lineage.describe(challenger.name, root)
    text = json.dumps(made_from, indent=1, ensure_ascii=False, default=str) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")
    card = model_card(
        folder,
        dataset=settings.dataset,
        evaluation=challenger.evaluation,
        data=challenger.data,
        lineage=made_from,
    )
    (folder / CARD).write_text(card, encoding="utf-8")
