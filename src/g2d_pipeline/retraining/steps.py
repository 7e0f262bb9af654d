"""The nodes of a retraining beside the stages: the gates before training, and the promotion after it.

Registry, gates and promotion are imported where there is something to do: a retraining without new data needs
none of them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2d_pipeline.artefacts import Models, TrainedFolder
from g2d_pipeline.config import RetrainRun
from g2d_pipeline.errors import RefusedData, TrainingError
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.files import atomic_write, evaluation_set_file, fingerprint, relative
from g2d_pipeline.pipelines.evaluate import read_runs, samples_of
from g2d_pipeline.remote import local_folder
from g2d_pipeline.retraining.lineage import Lineage
from g2d_pipeline.retraining.outcome import outcome_file, read_outcome
from g2d_pipeline.sources.hashing import cache_file
from g2d_pipeline.sources.manifest import Manifest

if TYPE_CHECKING:
    from g2d_pipeline.serving.registered import Version

ADMITTED = "admitted.parquet"  # the contents of the rows that passed the gates last
logger = logging.getLogger(__name__)


def restore_evaluation_set(settings: RetrainRun) -> None:
    """Copy the fixed evaluation set from the champion where the registry has one and this folder has none, as
    on a new machine."""
    file = evaluation_set_file(Path(settings.options.project), settings.dataset)
    if file.exists():
        return
    champion = _champion(settings)
    if champion is not None and (kept := champion.folder() / file.name).exists():
        with atomic_write(file) as path:
            shutil.copyfile(kept, path)
        logger.info("The fixed evaluation set is that of version %d.", champion.number)


def _champion(settings: RetrainRun) -> Version | None:
    from g2d_pipeline.registry.store import Registry

    registry = Registry(settings.settings.registry, Path(settings.options.project))
    return registry.get(settings.dataset, "champion")


def check_gates(manifests: dict[str, Manifest], settings: RetrainRun, lineage: Lineage) -> dict[str, Any]:
    """What the gates say of the manifest: `gates.json`. Data that have passed are not checked again.

    With `init_from: champion` the weights that training starts from are copied, for new data only, so that a
    retraining without new data has nothing to do."""
    import pandas as pd

    manifest, project, options = manifests[""], Path(settings.options.project), settings.settings
    key = fingerprint([lineage.plan.content("ingest", ""), options.gates.model_dump(mode="json")])
    last = read_outcome(outcome_file(project, settings.dataset, "gates.json"))
    if last.get("key") == key and last.get("outcome") in ("go", "warn"):
        logger.info("Gates: the data have not changed since %s, when they passed.", last["time"])
        return last
    from g2d_pipeline.registry import gates
    from g2d_pipeline.registry.reference import content_keys, read_reference

    champion = _champion(settings)
    folder = None if champion is None else champion.folder()
    root, hashes = local_folder(project, manifest.meta["raw_dir"]), cache_file(project, settings.dataset)
    passed = evaluation_set_file(project, settings.dataset).with_name(ADMITTED)
    before = pd.read_parquet(passed)["content"].tolist() if passed.exists() else []
    report = gates.check_gates(manifest, root, folder, options.gates, hashes=hashes, admitted=before)
    for sentence in report.sentences:
        logger.log(logging.INFO if report.outcome == "go" else logging.WARNING, "Gates: %s", sentence)
    if report.outcome != "stop":
        reference = None if folder is None else read_reference(folder)
        columns = (reference.about["meta"] if reference else manifest.meta)["columns"]
        with atomic_write(passed) as path:
            content_keys(manifest, columns, root, hashes)[["content"]].to_parquet(path, index=False)
        start = lineage.plan.configuration.start
        if start is not None and folder is not None:
            with atomic_write(start) as path:
                shutil.copyfile(folder / "model.safetensors", path)
            lineage.plan.refresh()
    number = None if champion is None else champion.number
    return {"dataset": settings.dataset, "key": key, "champion": number, **report.to_json()}


def admit_data(
    manifests: dict[str, Manifest], gates: dict[str, Any], settings: RetrainRun
) -> dict[str, Manifest]:
    """The manifest of data that have passed the gates. Raises RefusedData for others."""
    if gates["outcome"] == "stop":
        project = Path(settings.options.project)
        path = relative(outcome_file(project, settings.dataset, "gates.json"), project)
        reasons = [f["sentence"] for f in gates["findings"] if f["outcome"] == "stop"]
        lines = "".join(f"\n  - {reason}" for reason in reasons)
        raise RefusedData(
            f"{settings.dataset}: the new data are refused, nothing is trained, the champion stays.{lines}\n"
            f"What to do: mend the data, or the limits under retrain.gates. Details: {path}"
        )
    return manifests


def promote(
    students: Models,
    manifests: dict[str, Manifest],
    features: dict[str, FeatureStore],
    evaluation: dict[str, Any],
    data: dict[str, Any],
    report: str,
    settings: RetrainRun,
    lineage: Lineage,
) -> dict[str, Any]:
    """Register the method's best student on validation as the challenger, and promote it where it is better
    than the champion: `retrain.json`. `report` is an input for the order: it is registered, too."""
    models = {name: run for name, run in students.items() if name.startswith(f"{settings.method}/")}
    trained = {name: run for name, run in models.items() if isinstance(run, TrainedFolder)}
    contents = [lineage.content(run) for run in trained]
    key = fingerprint([contents, settings.settings.promote.model_dump(mode="json")])
    last = read_outcome(outcome_file(Path(settings.options.project), settings.dataset))
    if last.get("key") == key and last.get("outcome") in ("promoted", "kept"):
        return _unchanged(last)
    from g2d_pipeline.registry.promotion import best_on_validation
    from g2d_pipeline.retraining.version import Challenger, promote_challenger

    samples = samples_of(features[""], manifests[""])
    cases, failures = read_runs({}, models, {n.partition("/")[2]: (samples, features[""]) for n in models})
    if not cases:
        why = f" {failures[0].label}: {failures[0].reason}" if failures else ""
        raise TrainingError(f"There is no challenger: no student of {settings.method} was trained.{why}")
    best, spread = best_on_validation([run for run, *_ in cases])
    name = next(name for name, (run, *_) in zip(trained, cases, strict=True) if run is best)
    challenger = Challenger(name, best, trained[name], manifests[""], features[""], evaluation, data)
    about = {"dataset": settings.dataset, "key": key}
    return about | promote_challenger(challenger, spread, settings, lineage)


def _unchanged(last: dict[str, Any]) -> dict[str, Any]:
    """`retrain.json` where the same students were compared before."""
    decided = last.get("decided") or {name: last[name] for name in ("time", "outcome", "reason")}
    reason = f"nothing is new since {decided['time']}, when it was {decided['outcome']}: {decided['reason']}"
    champion = last["version"] if decided["outcome"] == "promoted" else last["champion"]
    return last | {"outcome": "kept", "champion": champion, "reason": reason, "decided": decided}
