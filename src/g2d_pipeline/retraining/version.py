"""A version: a trained model with all that comparing, explaining and rebuilding it needs; its promotion."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g2d_pipeline.artefacts import TrainedFolder
from g2d_pipeline.config import RetrainRun
from g2d_pipeline.evaluation.records import MULTI, Run
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.files import evaluation_set_file, relative
from g2d_pipeline.registry.evidence import write_evidence
from g2d_pipeline.registry.model_card import CARD, model_card
from g2d_pipeline.registry.promotion import decide
from g2d_pipeline.registry.reference import write_reference
from g2d_pipeline.registry.store import Registry
from g2d_pipeline.remote import local_folder
from g2d_pipeline.retraining.lineage import FILE, Lineage
from g2d_pipeline.serving.registered import Version
from g2d_pipeline.sources.evaluation_set import read_evaluation_set, write_evaluation_set
from g2d_pipeline.sources.hashing import cache_file
from g2d_pipeline.sources.manifest import Manifest, write_manifest

LEFT_OUT = ("outputs", "checkpoints", "logs")  # of a trained folder: large, or for training only


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

    @property
    def metrics(self) -> dict[str, float]:
        """`test/multi/accuracy` → value of the run, with its interval as `…/low` and `…/high`."""
        same = {"method": self.run.method, "modality": self.run.modality, "seed": self.run.seed}
        run = next(r for r in self.evaluation["runs"] if same.items() <= r.items())
        numbers = {
            f"{split}/{part}/{metric}": value
            for split, parts in run["metrics"].items()
            for part, metrics in parts.items()
            for metric, value in metrics.items()
        }
        for split, parts in run.get("intervals", {}).items():
            for part, metrics in parts.items():
                for metric, (low, high) in metrics.items():
                    numbers |= {f"{split}/{part}/{metric}/low": low, f"{split}/{part}/{metric}/high": high}
        return {name: float(value) for name, value in numbers.items() if value is not None}


def promote_challenger(
    challenger: Challenger, spread: dict[str, Any], settings: RetrainRun, lineage: Lineage
) -> dict[str, Any]:
    """Register the challenger, compare it with the champion, and promote it or not. A version that a killed
    process registered already is used. Returns the content of `retrain.json`."""
    project = Path(settings.options.project)
    registry = Registry(settings.settings.registry, project)
    content = lineage.content(challenger.name)
    champion = registry.get(settings.dataset, "champion")
    versions = registry.versions(settings.dataset)
    version = next((v for v in versions if v.tags.get("content") == content), None)
    if version is None:
        version = _register(registry, challenger, content, settings, lineage)
    report = relative(lineage.evaluation.resolve() / "report.html", project.resolve())
    return {
        "version": version.number,
        "spread": spread,
        "champion": None if champion is None else champion.number,
        "model_card": (version.folder() / CARD).read_text(encoding="utf-8"),
        "report": report.as_posix(),
    } | _decide(registry, champion, version, settings)


def _register(
    registry: Registry, challenger: Challenger, content: str, settings: RetrainRun, lineage: Lineage
) -> Version:
    """The version of a challenger; its test split becomes the fixed evaluation set, where there is none."""
    fixed = evaluation_set_file(Path(settings.options.project), settings.dataset)
    fixed.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".version-", dir=fixed.parent) as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        write_version(folder, challenger, settings, lineage)
        info = challenger.run.info
        version = registry.register(
            settings.dataset,
            folder,
            parameters=lineage.plan.configuration.describe(),
            metrics=challenger.metrics,
            artifacts=[lineage.evaluation / "report.html"],
            tags={
                "content": content,
                "method": challenger.run.method,
                "seed": str(info["seed"]),
                "source": settings.source,
                "metric": f"test/{MULTI}/{info['metric']}",
            },
        )
        if not fixed.exists():
            write_evaluation_set(fixed, challenger.manifest)
    return version


def write_version(folder: Path, challenger: Challenger, settings: RetrainRun, lineage: Lineage) -> None:
    """Write the folder of a version into the empty `folder`: model, evidence on the fixed evaluation set,
    reference of the gates, manifest, report, lineage and model card."""
    project, manifest = Path(settings.options.project), challenger.manifest
    left_out = shutil.ignore_patterns(*LEFT_OUT)
    shutil.copytree(challenger.trained.path, folder, ignore=left_out, dirs_exist_ok=True)
    write_manifest(manifest, folder / "manifest")
    fixed = evaluation_set_file(project, settings.dataset)
    if fixed.exists():
        shutil.copyfile(fixed, folder / fixed.name)
    else:
        write_evaluation_set(folder / fixed.name, manifest)
    ids, run = read_evaluation_set(folder / fixed.name, settings.source), challenger.run
    write_evidence(folder, run, challenger.trained, run.samples, ids, store=challenger.store)
    root, hashes = local_folder(project, manifest.meta["raw_dir"]), cache_file(project, settings.dataset)
    write_reference(folder, manifest, root, settings.settings.gates, hashes=hashes)
    (folder / "evaluation").mkdir()
    for name in ("report.html", "metrics.json"):
        shutil.copyfile(lineage.evaluation / name, folder / "evaluation" / name)
    start = lineage.plan.configuration.start
    if start is not None and start.exists():
        shutil.copyfile(start, folder / start.name)
    made_from = lineage.describe(challenger.name, root)
    text = json.dumps(made_from, indent=1, ensure_ascii=False, default=str) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")
    about: dict[str, Any] = {"evaluation": challenger.evaluation, "data": challenger.data}
    card = model_card(folder, dataset=settings.dataset, lineage=made_from, **about)
    (folder / CARD).write_text(card, encoding="utf-8")


def _decide(
    registry: Registry, champion: Version | None, version: Version, settings: RetrainRun
) -> dict[str, Any]:
    dataset = settings.dataset
    if champion is not None and champion.number == version.number:
        return {"outcome": "kept", "reason": f"version {version.number} is the champion already"}
    if version.tags.get("outcome") == "promoted":
        again = f"`kedro models promote {version.number}` brings it back"
        return {"outcome": "kept", "reason": f"version {version.number} was the champion before: {again}"}
    folder = None if champion is None else champion.folder()
    decision = decide(folder, version.folder(), settings.settings.promote)
    if decision.promote:
        registry.promote(dataset, version.number)
    outcome, reason = "promoted" if decision.promote else "kept", " ".join(decision.reasons)
    registry.tag(dataset, version.number, outcome=outcome, reason=reason)
    registry.prune(dataset)
    return {"outcome": outcome, "reason": reason, "decision": decision.to_json()}
