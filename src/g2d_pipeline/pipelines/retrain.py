"""New data → gates → … → a challenger, promoted or not."""

from typing import Any

from g2d_pipeline.artefacts import Models, TrainedFolder
from g2d_pipeline.config import RetrainRun
from g2d_pipeline.errors import TrainingError
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.pipelines.evaluate import read_runs, samples_of
from g2d_pipeline.retraining.lineage import Lineage
from g2d_pipeline.retraining.steps import admit, check_new_data, promote_challenger, unchanged
from g2d_pipeline.sources.manifest import Manifest


def check_gates(manifests: dict[str, Manifest], settings: RetrainRun, lineage: Lineage) -> dict[str, Any]:
    """What the gates say of the data: `gates.json`."""
    return check_new_data(manifests[""], settings, lineage)


def admit_data(
    manifests: dict[str, Manifest], gates: dict[str, Any], settings: RetrainRun
) -> dict[str, Manifest]:
    """The manifest, where the gates let it pass. Raises RefusedData."""
    admit(gates, settings)
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
    """Of the method's students the best on validation is registered as the challenger, and promoted where it
    is better than the champion: `retrain.json`. `report` is there for the order: it is registered, too."""
    own = {name: run for name, run in students.items() if name.startswith(f"{settings.method}/")}
    trained = {name: run for name, run in own.items() if isinstance(run, TrainedFolder)}
    if (nothing_new := unchanged(trained, settings, lineage)) is not None:
        return nothing_new
    from g2d_pipeline.registry.promotion import best_on_validation
    from g2d_pipeline.retraining.version import Challenger

    samples = samples_of(features[""], manifests[""])
    cases, failures = read_runs({}, own, {n.partition("/")[2]: (samples, features[""]) for n in own})
    if not cases:
        why = f" {failures[0].label}: {failures[0].reason}" if failures else ""
        raise TrainingError(f"There is no challenger: no student of {settings.method} was trained.{why}")
    best, spread = best_on_validation([run for run, *_ in cases])
    name = next(name for name, (run, *_) in zip(trained, cases, strict=True) if run is best)
    challenger = Challenger(name, best, trained[name], manifests[""], features[""], evaluation, data)
    return promote_challenger(challenger, spread, trained, settings, lineage)
