"""The two steps of a retraining beside the stages: the gates before training, and the promotion after it.

Registry, gates and promotion are imported where there is something to do: a retraining without new data needs
none of them."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2d_pipeline.config import RetrainRun
from g2d_pipeline.errors import RefusedData
from g2d_pipeline.files import atomic_write, evaluation_set_file, fingerprint, relative
from g2d_pipeline.remote import local_folder
from g2d_pipeline.retraining.lineage import Lineage
from g2d_pipeline.retraining.outcome import outcome_file, read_outcome
from g2d_pipeline.sources.hashing import cache_file

if TYPE_CHECKING:
    from g2d_pipeline.registry.store import Registry
    from g2d_pipeline.retraining.version import Challenger
    from g2d_pipeline.serving.registered import Version
    from g2d_pipeline.sources.manifest import Manifest

ADMITTED = "admitted.parquet"  # the contents of the rows that passed the gates last
logger = logging.getLogger(__name__)


def restore_evaluation_set(settings: RetrainRun) -> None:
    """Bring the fixed evaluation set back from the champion where the registry has one and this folder has
    none, as on a new machine."""
    file = evaluation_set_file(Path(settings.options.project), settings.dataset)
    if file.exists():
        return
    champion = _registry(settings).get(settings.dataset, "champion")
    if champion is not None and (kept := champion.folder() / file.name).exists():
        with atomic_write(file) as path:
            shutil.copyfile(kept, path)
        logger.info("The fixed evaluation set is that of version %d.", champion.number)


def _registry(settings: RetrainRun) -> Registry:
    from g2d_pipeline.registry.store import Registry

    return Registry(settings.settings.registry, Path(settings.options.project))


def check_new_data(manifest: Manifest, settings: RetrainRun, lineage: Lineage) -> dict[str, Any]:
    """What the gates say of the manifest, as `gates.json`; not asked again of data that have passed them.

    With `init_from: champion` the weights that training starts from are put in place, for new data only, so
    that a retraining without new data has nothing to do."""
    import pandas as pd

    project, options = Path(settings.options.project), settings.settings
    key = fingerprint([lineage.plan.content("ingest", ""), options.gates.model_dump(mode="json")])
    last = read_outcome(outcome_file(project, settings.dataset, "gates.json"))
    if last.get("key") == key and last.get("outcome") in ("go", "warn"):
        logger.info("Gates: the data have not changed since %s, when they passed.", last["time"])
        return last
    from g2d_pipeline.registry.gates import check_gates
    from g2d_pipeline.registry.reference import content_keys, read_reference

    champion = _registry(settings).get(settings.dataset, "champion")
    folder = None if champion is None else champion.folder()
    root, hashes = local_folder(project, manifest.meta["raw_dir"]), cache_file(project, settings.dataset)
    passed = evaluation_set_file(project, settings.dataset).with_name(ADMITTED)
    before = pd.read_parquet(passed)["content"].tolist() if passed.exists() else []
    report = check_gates(manifest, root, folder, options.gates, hashes=hashes, admitted=before)
    for sentence in report.sentences:
        logger.log(logging.INFO if report.outcome == "go" else logging.WARNING, "Gates: %s", sentence)
    if report.outcome != "stop":
        reference = None if folder is None else read_reference(folder)
        columns = (reference.about["meta"] if reference else manifest.meta)["columns"]
        with atomic_write(passed) as path:
            content_keys(manifest, columns, root, hashes)[["content"]].to_parquet(path, index=False)
    start = lineage.plan.configuration.start
    if start is not None and folder is not None and report.outcome != "stop":
        with atomic_write(start) as path:
            shutil.copyfile(folder / "model.safetensors", path)
        lineage.plan.refresh()
    number = None if champion is None else champion.number
    return {"dataset": settings.dataset, "key": key, "champion": number, **report.to_json()}


def admit(report: dict[str, Any], settings: RetrainRun) -> None:
    """Raise RefusedData where a gate refuses the data."""
    if report["outcome"] == "stop":
        reasons = [f["sentence"] for f in report["findings"] if f["outcome"] == "stop"]
        file = outcome_file(Path(settings.options.project), settings.dataset, "gates.json")
        path = relative(file, Path(settings.options.project))
        lines = "".join(f"\n  - {reason}" for reason in reasons)
        raise RefusedData(
            f"{settings.dataset}: the new data are refused, nothing is trained, the champion stays.{lines}\n"
            f"What to do: mend the data, or the limits under retrain.gates. Details: {path}"
        )


def unchanged(runs: Iterable[str], settings: RetrainRun, lineage: Lineage) -> dict[str, Any] | None:
    """`retrain.json` of a retraining that has nothing to decide: the same students were compared before."""
    last = read_outcome(outcome_file(Path(settings.options.project), settings.dataset))
    if last.get("key") != _key(runs, settings, lineage) or last.get("outcome") not in ("promoted", "kept"):
        return None
    decided = last.get("decided") or {name: last[name] for name in ("time", "outcome", "reason")}
    reason = f"nothing is new since {decided['time']}, when it was {decided['outcome']}: {decided['reason']}"
    champion = last["version"] if decided["outcome"] == "promoted" else last["champion"]
    return last | {"outcome": "kept", "champion": champion, "reason": reason, "decided": decided}


def _key(runs: Iterable[str], settings: RetrainRun, lineage: Lineage) -> str:
    contents = [lineage.content(run) for run in runs]
    return fingerprint([contents, settings.settings.promote.model_dump(mode="json")])


def promote_challenger(
    challenger: Challenger,
    spread: dict[str, Any],
    runs: Iterable[str],
    settings: RetrainRun,
    lineage: Lineage,
) -> dict[str, Any]:
    """Register the challenger, the best of `runs`, compare it with the champion and promote it or not:
    `retrain.json`. A version that is registered already, by a process that was killed, is used."""
    from g2d_pipeline.registry.model_card import CARD

    registry, key = _registry(settings), _key(runs, settings, lineage)
    content = lineage.content(challenger.name)
    champion = registry.get(settings.dataset, "champion")
    versions = registry.versions(settings.dataset)
    version = next((v for v in versions if v.tags.get("content") == content), None)
    if version is None:
        version = _register(registry, challenger, content, settings, lineage)
    result = {"dataset": settings.dataset, "key": key, "version": version.number, "spread": spread}
    result["champion"] = None if champion is None else champion.number
    result["model_card"] = (version.folder() / CARD).read_text(encoding="utf-8")
    project = Path(settings.options.project).resolve()
    result["report"] = relative(lineage.evaluation.resolve() / "report.html", project).as_posix()
    return result | _decide(registry, champion, version, settings)


def _register(
    registry: Registry, challenger: Challenger, content: str, settings: RetrainRun, lineage: Lineage
) -> Version:
    """The version of a challenger; its test split is the fixed evaluation set, where there was none."""
    from g2d_pipeline.evaluation import MULTI
    from g2d_pipeline.retraining.version import write_version

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
            metrics=_numbers(challenger),
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
            from g2d_pipeline.sources.evaluation_set import write_evaluation_set

            write_evaluation_set(fixed, challenger.manifest)
    return version


def _decide(
    registry: Registry, champion: Version | None, version: Version, settings: RetrainRun
) -> dict[str, Any]:
    from g2d_pipeline.registry.promotion import decide

    dataset, options = settings.dataset, settings.settings
    if champion is not None and champion.number == version.number:
        return {"outcome": "kept", "reason": f"version {version.number} is the champion already"}
    if version.tags.get("outcome") == "promoted":
        again = f"`kedro models promote {version.number}` brings it back"
        return {"outcome": "kept", "reason": f"version {version.number} was the champion before: {again}"}
    folder = None if champion is None else champion.folder()
    decision = decide(folder, version.folder(), options.promote)
    if decision.promote:
        registry.promote(dataset, version.number)
    reason = " ".join(decision.reasons)
    outcome = "promoted" if decision.promote else "kept"
    registry.tag(dataset, version.number, outcome=outcome, reason=reason)
    registry.prune(dataset)
    return {"outcome": outcome, "reason": reason, "decision": decision.to_json()}


def _numbers(challenger: Challenger) -> dict[str, float]:
    """`test/multi/accuracy` → value of the challenger's run, with its interval as `…/low` and `…/high`."""
    best = challenger.run
    same = {"method": best.method, "modality": best.modality, "seed": best.seed}
    run = next(r for r in challenger.evaluation["runs"] if same.items() <= r.items())
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
