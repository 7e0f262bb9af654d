"""New data → gates → … → a challenger, promoted or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from g2d_pipeline.artefacts import Models
from g2d_pipeline.config import RetrainRun
from g2d_pipeline.errors import TrainingError
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.pipelines.evaluate.nodes import read_runs, samples_of
from g2d_pipeline.sources.manifest import Manifest

if TYPE_CHECKING:
    from g2d_pipeline.retraining.lineage import Lineage


def check_gates(manifests: dict[str, Manifest], settings: RetrainRun, lineage: Lineage) -> dict[str, Any]:
    """What the gates say of the data: `gates.json`."""
    from g2d_pipeline.retraining.steps import check_new_data

    return check_new_data(manifests[""], settings, lineage)


def admit_data(
    manifests: dict[str, Manifest], gates: dict[str, Any], settings: RetrainRun
) -> dict[str, Manifest]:
    """The manifest, where the gates let it pass. Raises RefusedData."""
    from g2d_pipeline.retraining.steps import admit

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
    from g2d_pipeline.registry.promotion import best_on_validation
    from g2d_pipeline.retraining.steps import promote_challenger
    from g2d_pipeline.retraining.version import Challenger

    own = {name: run for name, run in students.items() if name.startswith(f"{settings.method}/")}
    samples = samples_of(features[""], manifests[""])
    by_repeat = {name.partition("/")[2]: (samples, features[""]) for name in own}
    cases, failures = read_runs({}, own, by_repeat)
    if not cases:
        why = f" {failures[0].label}: {failures[0].reason}" if failures else ""
        raise TrainingError(f"There is no challenger: no student of {settings.method} was trained.{why}")
    best, spread = best_on_validation([run for run, *_ in cases])
    position = next(k for k, (run, *_) in enumerate(cases) if run is best)
    run, folder, _ = cases[position]
    name = next(name for name, trained in own.items() if trained is folder)
    challenger = Challenger(name, run, folder, manifests[""], evaluation, data)
    return promote_challenger(challenger, spread, settings, lineage)
