"""The model card: Markdown with Hugging Face's metadata block, made of a version's artefacts alone.

What an artefact does not say is "not measured" or "not recorded"; the same artefacts give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from g2d_pipeline.artefacts import TrainedFolder
from g2d_pipeline.errors import enumerated
from g2d_pipeline.evaluation import MULTI, TEACHER, collect_metrics, intervals, resample
from g2d_pipeline.evaluation.metrics import HEADLINE_METRICS, TASK_METRICS, metric_spec
from g2d_pipeline.evaluation.records import row_label
from g2d_pipeline.evaluation.statistics import LEVEL
from g2d_pipeline.evaluation.table_files import markdown
from g2d_pipeline.evaluation.tables import ABSENT, format_value
from g2d_pipeline.features.inputs import FILE as INPUTS
from g2d_pipeline.features.inputs import read_inputs
from g2d_pipeline.registry.evidence import HEADER, WITHOUT, Evidence, read_evidence

CARD = "model_card.md"
UNMEASURED, UNRECORDED = "not measured", "not recorded"
PIPELINES = [f"{kind}-classification" for kind in ("image", "audio", "text", "video", "tabular")]
PIPELINES += ["tabular-regression"]  # what Hugging Face has of these tasks
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
    are made of the evidence. Raises DataError where `model.json` is missing, `inputs.json` or the evidence
    damaged."""
    return _Card(folder, dataset, evaluation, data, lineage, version).text()


class _Card:
    def __init__(self, folder: Path, dataset: str, *artefacts: Any) -> None:
        self.dataset = dataset
        self.evaluation, self.data, self.lineage, self.version = artefacts
        self.info = TrainedFolder(folder).info
        self.inputs = read_inputs(folder).about if (folder / INPUTS).is_file() else {}
        evidence = read_evidence(folder) if (folder / HEADER).is_file() else None
        self.header = evidence.header if evidence else None
        self.measured = _measured(evidence) if evidence else {}
        self.task, self.modalities = str(self.info["task"]), list(self.info["modalities"])
        self.method = self.header.method if self.header else str(self.info["algorithm"])
        self.modality = self.modalities[0] if self.method == TEACHER else ""
        self.target = self.inputs.get("target") or self.data.get("target") or {}
        self.unit = str(self.target.get("unit") or "")
        self.sample = "sample" in [x.get("source") for x in (self.inputs, self.data, self.evaluation)]
        self.kinds = {m: str(of["kind"]) for m, of in self.inputs.get("modalities", {}).items()}

    # ---------------------------------------------------------------------------------- the whole card
    def text(self) -> str:
        sections = {
            "Intended use": self._use(),
            "Data": self._data(),
            "Metrics": self._metrics(),
            "Each modality, and without it": self._modalities(),
            "Imbalance of the modalities": self._verdict(),
            "Calibration": self._table(CALIBRATION[self.task]) or UNMEASURED,
            "Limits": _list(self._limits()),
            "Lineage": self._lineage(),
            "How to load it": self._loading(),
        }
        title = f"# {self.dataset}: {self._name()}{f', version {self.version}' if self.version else ''}"
        if self.sample:
            title += "\n\n> **SAMPLE.** Trained on the bundled or simulated sample: it measures nothing."
        front = yaml.safe_dump(self.metadata(), sort_keys=False, allow_unicode=True, width=100)
        body = "\n\n".join(f"## {head}\n\n{text.strip()}" for head, text in sections.items())
        return f"---\n{front}---\n\n{title}\n\n{body}\n"

    def _name(self) -> str:
        return row_label(self.method, self.modality)

    def metadata(self) -> dict[str, Any]:
        """Hugging Face's block: `model-index` has the headline metrics of all modalities together."""
        names, kinds = HEADLINE_METRICS[self.task], list(dict.fromkeys(self.kinds.values()))
        known = [name for name in names if (MULTI, name) in self.measured]
        of_kind = f"{kinds[0]}-{self.task}" if len(kinds) == 1 else ""
        about = {"name": self.dataset, "type": self.dataset, "split": "test"}
        about |= {"revision": self.lineage["raw"]} if self.lineage.get("raw") else {}
        result = {
            "task": {"type": of_kind if of_kind in PIPELINES else f"multimodal-{self.task}"},
            "dataset": about,
            "metrics": [
                {"type": n, "value": self.measured[MULTI, n][0], "name": metric_spec(n).label} for n in known
            ],
        }
        tags = ["g2d-pipeline", self.task, *["multimodal"] * (len(self.modalities) > 1), *kinds]
        return {
            "library_name": "g2d-pipeline",
            "license": "unknown",
            **({"pipeline_tag": of_kind} if of_kind in PIPELINES else {}),
            "tags": [*tags, *["sample-data"] * self.sample],
            "datasets": [self.dataset],
            "metrics": list(names),
            "model-index": [{"name": f"{self.dataset}-{self.method}", "results": [result] * bool(known)}],
        }

    # ------------------------------------------------------------------------------------ its sections
    def _use(self) -> str:
        names = self.info.get("class_names") or []
        what = f"one of {len(names)} classes ({enumerated(names, 12)})" if names else "a value"
        what += f" in {self.unit}" * bool(self.unit)
        inputs = ", ".join(f"{m} ({self.kinds[m]})" if m in self.kinds else m for m in self.modalities)
        target, other = self.target.get("name") or "the target", "classes" if names else "values"
        return _plain(
            f"Predicts {target}, {what}, from {inputs}, of samples that come about as {self.dataset}’s do. "
            "A sample that lacks a modality is predicted by the others: what that costs stands below.\n\n"
            "Out of scope: samples of another origin, device or population than the data’s, "
            f"{other} that training did not have, and decisions on people that no person checks."
        )

    def _data(self) -> str:
        splits = self.data.get("splits", {})
        rows = [["split", "samples"], *([name, own["samples"]] for name, own in splits.items())]
        groups = self.data.get("groups") or {}
        facts = {
            "raw data (hash)": self.lineage.get("raw"),
            "evaluation set (hash)": self.header and self.header.evaluation_set,
            "groups": groups.get("groups"),
            "samples dropped": self.data.get("dropped", {}).get("samples"),
        }
        notes = [str(note) for note in self.data.get("notes", [])]
        return (markdown(rows, 1) + "\n" if splits else "") + _list([*_facts(facts), *notes])

    def _metrics(self) -> str:
        seeds = [
            f"{metric_spec(row['metric']).title(self.unit)} over {row['n']} runs of {self.method}: "
            f"{format_value(row['metric'], row['mean'], row['std'])}"
            for row in self.evaluation.get("summary", [])
            if row["method"] == self.method
            and row["modality"] == self.modality
            and row["part"] == (self.modality or MULTI)
            and row["metric"] in HEADLINE_METRICS[self.task]
            and row["mean"] is not None
            and row["std"] is not None
        ]
        others = [name for name in TASK_METRICS[self.task] if name not in CALIBRATION[self.task]]
        return (self._table(others) or UNMEASURED) + ("\n" + _list(seeds) if seeds else "")

    def _table(self, names: Sequence[str]) -> str:
        """A row a metric, of all modalities together."""
        rows = [[metric_spec(n).title(self.unit), *self._cells(MULTI, n)] for n in names]
        known = [row for row in rows if row[1] != UNMEASURED]
        return markdown([["", "value", f"{LEVEL:.0%} interval"], *known], 2) if known else ""

    def _modalities(self) -> str:
        name = HEADLINE_METRICS[self.task][0]
        if len(self.modalities) < 2:
            return f"The model has one modality, {self.modalities[0]}."
        interval = f"{LEVEL:.0%} interval"
        rows = [["modality", "it alone", interval, "without it", interval]]
        rows += [[m, *self._cells(m, name), *self._cells(WITHOUT + m, name)] for m in self.modalities]
        every = self._cells(MULTI, name)[0]
        return f"{metric_spec(name).title(self.unit)}; all together: {every}.\n\n{markdown(rows, 4)}"

    def _verdict(self) -> str:
        topics = ("multimodality", "ensemble of teachers", "under-used modality", "ranking")
        sentences = [one["text"] for one in self.evaluation.get("verdict", []) if one["topic"] in topics]
        return _list(sentences) or UNMEASURED

    def _limits(self) -> list[str]:
        limits = ["SAMPLE data: no number here is of use beyond trying the software."] * self.sample
        if h := self.header:
            units = f" in {h.groups} groups" if h.groups else ", without groups: taken for independent"
            words = "Intervals are of this one model: another seed and later data are not in them."
            limits.append(f"The evaluation set has {h.samples} samples{units}. {words}")
        if selection := self.evaluation.get("selection"):
            limits.append(f"Epochs: {selection}.")
        return [*limits, *map(str, self.evaluation.get("notes", []))] or [UNRECORDED]

    def _lineage(self) -> str:
        lineage, machine = self.lineage, self.lineage.get("machine") or {}
        dirty = " with uncommitted changes" if lineage.get("dirty") else ""
        facts = {
            "made": lineage.get("created"),
            "run": lineage.get("run"),
            "code": f"{lineage['commit']}{dirty}" if lineage.get("commit") else None,
            "requirements.lock (hash)": lineage.get("lock"),
            "seed": lineage.get("seed", self.info.get("seed")),
            "epoch": self.info.get("selected_epoch"),
            "machine": ", ".join(f"{key} {value}" for key, value in machine.items()),
            **{f"input {name}": value for name, value in (lineage.get("inputs") or {}).items()},
            **{str(name): value for name, value in (lineage.get("versions") or {}).items()},
        }
        return _list(_facts(facts))

    def _loading(self) -> str:
        uri = f"models:/{self.dataset}/{self.version or '<version>'}"
        return (
            "```python\nfrom g2d_pipeline import load_model\n\n"
            'load_model("<this folder>").predict("new.csv")  # a table, a folder, or arrays\n```\n\n'
            f'```python\nimport mlflow\n\nmlflow.pyfunc.load_model("{uri}").predict(table)\n```'
        )

    def _cells(self, part: str, metric: str) -> list[str]:
        """The value and its interval in words."""
        if (part, metric) not in self.measured:
            return [UNMEASURED, ""]
        value, *ends = (format_value(metric, x) for x in self.measured[part, metric])
        return [value, "" if ABSENT in ends else " to ".join(ends)]


def _measured(evidence: Evidence) -> dict[tuple[str, str], list[float]]:
    """(part, metric) → value and the ends of its interval (NaN where there is none); no undefined values."""
    names = evidence.header.modalities if len(evidence.header.modalities) > 1 else ()
    run = evidence.run("model", [MULTI, *names, *(WITHOUT + m for m in names)])
    if run.predictions.empty:
        return {}
    frame = intervals(collect_metrics([run], "", ""), resample([run])).dropna(subset="value")
    columns = frame[["part", "metric", "value", "low", "high"]].itertuples(index=False, name=None)
    return {(part, metric): numbers for part, metric, *numbers in columns}


def _facts(facts: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {UNRECORDED if value in (None, '') else value}" for name, value in facts.items()]


def _list(lines: Sequence[str]) -> str:
    return "".join(f"- {_plain(' '.join(line.split()))}\n" for line in lines)


def _plain(text: str) -> str:
    """Text of data, which may not become markup."""
    return text.replace("<", "&lt;").replace("|", r"\|")
