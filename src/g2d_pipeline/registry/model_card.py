"""The model card: Markdown with Hugging Face's metadata block, made of a version's artefacts alone.

What no artefact has is "not measured" or "not recorded"; the same artefacts give the same bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from g2d_pipeline.artefacts import TrainedFolder
from g2d_pipeline.errors import enumerated
from g2d_pipeline.evaluation import MULTI, TEACHER, collect_metrics, intervals, resample
from g2d_pipeline.evaluation.metrics import HEADLINE_METRICS, TASK_METRICS, metric_spec
from g2d_pipeline.evaluation.records import row_label
from g2d_pipeline.evaluation.statistics import LEVEL
from g2d_pipeline.evaluation.tables import ABSENT, format_value, markdown
from g2d_pipeline.features.inputs import FILE as INPUTS
from g2d_pipeline.features.inputs import read_inputs
from g2d_pipeline.registry.evidence import HEADER, WITHOUT, Evidence, read_evidence

CARD = "model_card.md"
UNMEASURED, UNRECORDED = "not measured", "not recorded"
PIPELINES = [f"{kind}-classification" for kind in ("image", "audio", "text", "video", "tabular")]
PIPELINES += ["tabular-regression"]  # what Hugging Face has of these tasks
IMBALANCE = ("multimodality", "ensemble of teachers", "under-used modality", "ranking")  # of the verdict
INTERVAL = f"{LEVEL:.0%} interval"
CALIBRATION = {"classification": ("ece", "nll", "brier"), "regression": ("bias",)}


def model_card(
    folder: Path,
    *,
    dataset: str,
    evaluation: Mapping[str, Any],
    data: Mapping[str, Any],
    lineage: Mapping[str, Any],
    version: str = "",
) -> str:
    """The card of the trained model in a version's `folder` (`model.json`, `inputs.json`, its evidence).

    `evaluation`: metrics.json, `data`: data_report.json, `lineage`: lineage.json; each may be empty. Metrics
    are computed from the evidence. Raises DataError if `model.json` is missing, `inputs.json` or the evidence
    damaged."""
    card = _Card(folder, dataset, version, evaluation, data, lineage)
    names, splits = card.info.get("class_names") or [], data.get("splits", {}).items()
    calibration = CALIBRATION[card.task]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "plain": _plain,
        "line": lambda text: _plain(" ".join(str(text).split())),
        "recorded": lambda value: UNRECORDED if value is None or str(value) == "" else value,
    }
    return environment.get_template("model_card.md.j2").render(
        c=card,
        front=yaml.safe_dump(card.metadata(), sort_keys=False, allow_unicode=True, width=100),
        what=f"one of {len(names)} classes ({enumerated(names, 12)})" if names else "a value",
        inputs=[f"{m} ({card.kinds[m]})" if m in card.kinds else m for m in card.modalities],
        data=data,
        splits=markdown([["split", "samples"], *([name, split["samples"]] for name, split in splits)], 1),
        metrics=[name for name in TASK_METRICS[card.task] if name not in calibration],
        verdict=[entry["text"] for entry in evaluation.get("verdict", []) if entry["topic"] in IMBALANCE],
        calibration=calibration,
        lineage=lineage,
        unmeasured=UNMEASURED,
    )


def _plain(text: str) -> str:
    """Text of data, which may not become markup."""
    return text.replace("<", "&lt;").replace("|", r"\|")


class _Card:
    def __init__(self, folder: Path, dataset: str, version: str, *artefacts: Any) -> None:
        self.dataset, self.version = dataset, version
        self.evaluation, data, self.lineage = artefacts
        self.info = TrainedFolder(folder).info
        inputs = read_inputs(folder).about if (folder / INPUTS).is_file() else {}
        evidence = read_evidence(folder) if (folder / HEADER).is_file() else None
        self.header = evidence.header if evidence else None
        self.measured = _measured(evidence) if evidence else {}
        self.task, self.modalities = str(self.info["task"]), list(self.info["modalities"])
        self.method = self.header.method if self.header else str(self.info["algorithm"])
        self.modality = self.modalities[0] if self.method == TEACHER else ""
        self.name = row_label(self.method, self.modality)
        self.target = inputs.get("target") or data.get("target") or {}
        self.unit = str(self.target.get("unit") or "")
        self.sample = "sample" in [x.get("source") for x in (inputs, data, self.evaluation)]
        self.kinds = {m: str(about["kind"]) for m, about in inputs.get("modalities", {}).items()}

    def metadata(self) -> dict[str, Any]:
        """Hugging Face's block: `model-index` has the headline metrics of all modalities together."""
        names, kinds = HEADLINE_METRICS[self.task], list(dict.fromkeys(self.kinds.values()))
        pipeline = f"{kinds[0]}-{self.task}" if len(kinds) == 1 else ""
        pipeline = pipeline if pipeline in PIPELINES else ""
        dataset = {"name": self.dataset, "type": self.dataset, "split": "test"}
        dataset |= {"revision": self.lineage["raw"]} if self.lineage.get("raw") else {}
        metrics = [
            {"type": name, "value": self.measured[MULTI, name][0], "name": metric_spec(name).label}
            for name in names
            if (MULTI, name) in self.measured
        ]
        task = {"type": pipeline or f"multimodal-{self.task}"}
        results = [{"task": task, "dataset": dataset, "metrics": metrics}] * bool(metrics)
        tags = ["g2d-pipeline", self.task, *["multimodal"] * (len(self.modalities) > 1), *kinds]
        return {
            "library_name": "g2d-pipeline",
            "license": "unknown",
            **({"pipeline_tag": pipeline} if pipeline else {}),
            "tags": [*tags, *["sample-data"] * self.sample],
            "datasets": [self.dataset],
            "metrics": list(names),
            "model-index": [{"name": f"{self.dataset}-{self.method}", "results": results}],
        }

    def over_seeds(self) -> list[str]:
        """The headline metrics over all runs of the method."""
        wanted = {"method": self.method, "modality": self.modality, "part": self.modality or MULTI}
        return [
            f"{metric_spec(row['metric']).title(self.unit)} over {row['n']} runs of {self.method}: "
            f"{format_value(row['metric'], row['mean'], row['std'])}"
            for row in self.evaluation.get("summary", [])
            if wanted.items() <= row.items() and row["metric"] in HEADLINE_METRICS[self.task]
            if row["mean"] is not None and row["std"] is not None
        ]

    def table(self, names: Sequence[str]) -> str:
        """A row a metric, of all modalities together; empty if none is measured."""
        rows = [[metric_spec(n).title(self.unit), *self.cells(MULTI, n)] for n in names]
        known = [row for row in rows if row[1] != UNMEASURED]
        return markdown([["", "value", INTERVAL], *known], 2).strip() if known else ""

    def modality_table(self) -> str:
        name = HEADLINE_METRICS[self.task][0]
        if len(self.modalities) < 2:
            return f"The model has one modality, {self.modalities[0]}."
        rows = [["modality", "it alone", INTERVAL, "without it", INTERVAL]]
        rows += [[m, *self.cells(m, name), *self.cells(WITHOUT + m, name)] for m in self.modalities]
        every = self.cells(MULTI, name)[0]
        return f"{metric_spec(name).title(self.unit)}; all together: {every}.\n\n{markdown(rows, 4).strip()}"

    def limits(self) -> list[str]:
        limits = ["SAMPLE data: no number here is of use beyond trying the software."] * self.sample
        if h := self.header:
            units = f" in {h.groups} groups" if h.groups else ", without groups: taken for independent"
            intervals = "Intervals are of this one model: another seed and later data are not in them."
            limits.append(f"The evaluation set has {h.samples} samples{units}. {intervals}")
        if selection := self.evaluation.get("selection"):
            limits.append(f"Epochs: {selection}.")
        return [*limits, *map(str, self.evaluation.get("notes", []))] or [UNRECORDED]

    def cells(self, part: str, metric: str) -> list[str]:
        """The value and its interval as text."""
        if (part, metric) not in self.measured:
            return [UNMEASURED, ""]
        value, *ends = (format_value(metric, x) for x in self.measured[part, metric])
        return [value, "" if ABSENT in ends else " to ".join(ends)]


def _measured(evidence: Evidence) -> dict[tuple[str, str], list[float]]:
    """(part, metric) → value and the ends of its interval (NaN if there is none), if the value is defined."""
    names = evidence.header.modalities if len(evidence.header.modalities) > 1 else ()
    run = evidence.run("model", [MULTI, *names, *(WITHOUT + m for m in names)])
    if run.predictions.empty:
        return {}
    frame = intervals(collect_metrics([run], "", ""), resample([run])).dropna(subset="value")
    columns = frame[["part", "metric", "value", "low", "high"]].itertuples(index=False, name=None)
    return {(part, metric): numbers for part, metric, *numbers in columns}
