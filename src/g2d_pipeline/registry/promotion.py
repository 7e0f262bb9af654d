"""Whether a challenger takes the champion's place: by their evidence on one evaluation set; no model runs.

The rule, its reasons and its error rates: docs/retrain.md."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from g2d_pipeline.config.retrain import PROMOTED_BY, UNTESTED, PromoteSettings
from g2d_pipeline.errors import ConfigError, DataError, enumerated
from g2d_pipeline.evaluation import MULTI, Run, evaluate_predictions, resample
from g2d_pipeline.evaluation.metrics import HEADLINE_METRICS, class_probabilities, metric_spec
from g2d_pipeline.evaluation.records import ordered_runs
from g2d_pipeline.evaluation.statistics import BETTER, EQUAL, WORSE, half_width, percentiles, spread_of
from g2d_pipeline.evaluation.summary_json import plain
from g2d_pipeline.registry.evidence import WITHOUT, Evidence, read_evidence

COMPARED = (
    "rule", "what", "metric", "champion", "challenger", "difference", "low", "high", "guard", "verdict",
)  # fmt: skip
CHAMPION, CHALLENGER = "champion", "challenger"
LEAST = 20  # samples of a group that is guarded
HOLDS, FALLS, UNGUARDED, UNMEASURED = "holds", "falls", "not guarded", "not measured"
IN_TARGET_UNIT = ("rmse", "mae", "bias")
ROUNDING = 1e-9  # a fall by the guard itself is none
CALIBRATION = {"classification": "ece", "regression": "bias"}


@dataclass(frozen=True)
class Decision:
    """Whether to `promote`; `reasons`: why, or why not, a sentence each; `comparisons`: a row a comparison.

    Its columns are `COMPARED`. `rule`: `metric` or a guard's name; `what` is compared (`all modalities`,
    `audio alone`, `without audio`, `group x`, `calibration`) by which `metric`; `difference`, oriented: > 0
    is better, with one-sided confidence bounds `low` and `high` (NaN if there are none); `guard`: the
    greatest loss (of the rule `metric`: the least improvement); `verdict`: of the metric better, worse or not
    told apart, of a guard holds, falls, not guarded or not measured."""

    promote: bool
    reasons: list[str]
    comparisons: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        """For `retrain.json`: NaN as None."""
        records = self.comparisons.to_dict(orient="records")
        return {"promote": self.promote, "reasons": self.reasons, "comparisons": plain(records)}


def decide(champion: Path | None, challenger: Path, settings: PromoteSettings) -> Decision:
    """Whether the version in the folder `challenger` takes the place of the one in `champion` (None: there is
    none), by the evidence in both.

    Raises DataError if the challenger's evidence is missing or damaged (the champion's: it is kept, with
    that reason); ConfigError if `metric` is none of the task."""
    new = read_evidence(challenger)
    metric = settings.metric or HEADLINE_METRICS[new.header.task][0]
    if metric not in PROMOTED_BY[new.header.task]:
        raise ConfigError(f"retrain.promote.metric = {metric}: no metric of a {new.header.task}")
    if reason := _not_finite(new, CHALLENGER):
        return _decision([], [reason])
    if champion is None:
        return _decision(["promoted: it is the first model"], [])
    try:
        old = read_evidence(champion)
    except DataError as error:
        return _decision([], [f"the champion can not be compared with: {error}"])
    if reasons := [*_incomparable(old, new), *filter(None, [_not_finite(old, CHAMPION)])]:
        return _decision([], reasons)
    return _Comparison(old, new, metric, settings).decision()


def _decision(support: list[str], refusals: list[str], rows: Sequence[Mapping[str, Any]] = ()) -> Decision:
    reasons = [f"refused: {reason}" for reason in refusals] or support
    return Decision(not refusals, reasons, pd.DataFrame(rows, columns=list(COMPARED)))


def _not_finite(evidence: Evidence, who: str, part: str = MULTI) -> str:
    if not (bad := evidence.infinite(part)):
        return ""
    count = f"{len(bad)} of {evidence.header.samples} samples"
    return f"the {who}’s logits of {count} are NaN or infinite ({enumerated(bad, 3)})"


def _incomparable(old: Evidence, new: Evidence) -> Iterator[str]:
    a, b = old.header, new.header
    remedy = "`kedro models promote` makes it the champion all the same"
    for name, x, y in (("task", a.task, b.task), ("target’s unit", a.unit, b.unit)):
        if x != y:
            yield f"the {name} is {y or 'none'}, the champion’s {x or 'none'}: {remedy}"
    if a.task == b.task and a.class_names != b.class_names:
        first, second = pd.Index(a.class_names), pd.Index(b.class_names)
        cases = {
            "without": first.difference(second, sort=False),
            "with": second.difference(first, sort=False),
        }
        changes = [f"{case} {enumerated(names, 5)}" for case, names in cases.items() if len(names)]
        yield f"the classes are not the champion’s: {', '.join(changes) or 'in another order'}: {remedy}"
    if a.task == b.task and a.evaluation_set != b.evaluation_set:
        before, after = old.labels, new.labels
        shared = before.index.intersection(after.index, sort=False)
        cases = {
            "only the champion has": before.index.difference(after.index, sort=False),
            "only the challenger has": after.index.difference(before.index, sort=False),
            "another target have": shared[(before[shared] != after[shared]).to_numpy()],
        }
        changes = [f"{case} {len(ids)} ({enumerated(ids, 3)})" for case, ids in cases.items() if len(ids)]
        yield f"the evaluation set is not the champion’s: {'; '.join(changes)}: {remedy}"


class _Scores:
    """Both models' metrics on the same samples (`at` `[n]`: some of them, each independent) and on resamples
    of them, or of their groups."""

    def __init__(self, old: Evidence, new: Evidence, parts: Sequence[str], at: Any = None) -> None:
        self.runs = {CHAMPION: old.run(CHAMPION, parts, at), CHALLENGER: new.run(CHALLENGER, parts, at)}
        by_key = resample(list(self.runs.values()))
        self.resampled = {(key.method, key.part): metrics for key, metrics in by_key.items()}

    def value(self, who: str, part: str, metric: str) -> float:
        """NaN if it has no such part."""
        if (who, part) not in self.resampled:
            return math.nan
        if metric in UNTESTED:
            return _evaluate(self.runs[who], "test", part)[metric]
        value = self.resampled[who, part].values.get(metric, math.nan)
        return abs(value) if metric == "bias" else value

    def compare(self, part: str, metric: str, confidence: float) -> dict[str, Any]:
        """The values of both, their oriented difference, and its one-sided bounds: the wider ones of
        Student's t with the variance of the paired bootstrap (as in `statistics.comparisons`) and of its
        expanded percentiles; either alone lets equal models pass a little too often. No bounds for metrics
        that are not resampled, and for so few units that all of them on one side would not be enough."""
        sign = 1 if metric_spec(metric).higher_is_better else -1
        old, new = (self.value(who, part, metric) for who in self.runs)
        difference = sign * (new - old)
        row = {"metric": metric, "champion": old, "challenger": new, "difference": difference}
        pair = [self.resampled[who, part] for who in self.runs if (who, part) in self.resampled]
        samples = [r.replicates[metric] for r in pair if metric in r.replicates and metric != "bias"]
        if len(samples) < 2 or (units := pair[0].units) < 2 or 0.5**units > 1 - confidence:
            return row | {"low": math.nan, "high": math.nan}
        replicates = sign * (samples[1] - samples[0])
        low, high = percentiles(replicates, units, 2 * confidence - 1)
        replicates = replicates[np.isfinite(replicates)][None]
        spread = spread_of(np.array([difference]), replicates, np.zeros(1, int), {0: units})
        half = float(half_width(spread, 2 * (1 - confidence)))
        return row | {"low": min(low, difference - half), "high": max(high, difference + half)}


class _Comparison:
    """Champion and challenger on the evaluation set, in the order and groups of the challenger's."""

    def __init__(self, old: Evidence, new: Evidence, metric: str, settings: PromoteSettings) -> None:
        table = old.table.drop(columns="group", errors="ignore")
        order = new.table.filter(["sample_id", "group"])
        self.old = Evidence(old.header, order.merge(table, on="sample_id", validate="1:1"))
        self.new, self.metric, self.settings = new, metric, settings
        self.groups = new.table["group"] if "group" in new.table else pd.Series(dtype=object)
        modalities = list(dict.fromkeys([*old.header.modalities, *new.header.modalities]))
        alone = modalities if len(modalities) > 1 else []  # one alone is the same as all
        self.parts = {m: ("per_modality", f"{m} alone") for m in alone}
        self.parts |= {WITHOUT + m: ("missing_modality", WITHOUT + m) for m in alone}
        target = new.table["target"].to_numpy(float)
        self.spread = float(target.std()) if new.header.task == "regression" else 1.0
        self.scores = _Scores(self.old, new, [MULTI, *self.parts])

    def rows(self) -> Iterator[dict[str, Any]]:
        """The row of the rule `metric`, then those of the guards."""
        confidence, compare = self.settings.confidence, self.scores.compare
        row = compare(MULTI, self.metric, confidence)
        low, high = self._bounds(row)
        verdict = BETTER if low > 0 else WORSE if high < 0 else EQUAL
        verdict = verdict if math.isfinite(row["difference"]) else UNMEASURED
        limits = {"guard": self.settings.min_improvement, "verdict": verdict}
        yield {"rule": "metric", "what": "all modalities", **row, **limits}
        for part, (rule, subject) in self.parts.items():
            yield self._guarded(rule, subject, compare(part, self.metric, confidence))
        counts = self.groups.value_counts().sort_index()
        large = counts[counts >= LEAST]
        for group, count in large.items():
            scores = _Scores(self.old, self.new, [MULTI], (self.groups == group).to_numpy())
            row = scores.compare(MULTI, self.metric, 1 - (1 - confidence) / len(large))  # Bonferroni's level
            yield self._guarded("per_group", f"group {group} ({count} samples)", row)
        row = compare(MULTI, CALIBRATION[self.new.header.task], confidence)
        yield self._guarded("calibration", "calibration", row)

    def _bounds(self, row: Mapping[str, Any]) -> tuple[float, float]:
        """The bounds of the difference that count, which by value is the difference itself."""
        by_value = self.settings.test == "value"
        return (row["difference"],) * 2 if by_value else (row["low"], row["high"])

    def _guarded(self, rule: str, subject: str, row: dict[str, Any]) -> dict[str, Any]:
        """A row of a guard: it falls if it loses more than the guard and is shown to lose, as far as there
        is a test; by chance alone a value moves by more than a guard if samples or groups are few."""
        guard: float | None = getattr(self.settings.guard, rule)
        scale = {"mape": 100.0, **dict.fromkeys(IN_TARGET_UNIT, self.spread)}.get(row["metric"], 1.0)
        limit = math.nan if guard is None else guard * scale
        falls = row["difference"] < -limit - ROUNDING and not self._bounds(row)[1] >= 0
        if math.isnan(row["challenger"]) and math.isfinite(row["champion"]) and rule != "per_group":
            falls = True
        measured = HOLDS if math.isfinite(row["difference"]) else UNMEASURED
        verdict = UNGUARDED if guard is None else FALLS if falls else measured
        return {"rule": rule, "what": subject, **row, "guard": limit, "verdict": verdict}

    def decision(self) -> Decision:
        headline, *guards = rows = list(self.rows())
        refusals = [self._fall(row) for row in guards if row["verdict"] == FALLS]
        pairs = ((self.old.logits(part), self.new.logits(part)) for part in (MULTI, *self.parts))
        if all(a is b if a is None or b is None else np.array_equal(a, b, equal_nan=True) for a, b in pairs):
            refusals.insert(0, "it predicts exactly what the champion predicts")
        elif not self._bounds(headline)[0] > self.settings.min_improvement:
            refusals.insert(0, self._headline(headline))
        held = sum(row["verdict"] == HOLDS for row in guards)
        passed = f"{held} guarded comparisons hold" if held else "nothing is guarded"
        return _decision([f"promoted: {self._headline(headline)}", passed], refusals, rows)

    def _headline(self, row: Mapping[str, Any]) -> str:
        """`accuracy 0.83 against 0.8, not told apart: …`."""
        s, label, unit = self.settings, _label(self.metric), self._unit(self.metric)
        if row["verdict"] == UNMEASURED:
            return f"{label} is not defined on the evaluation set"
        units = (
            f"{self.scores.resampled[CHALLENGER, MULTI].units} {'samples' if self.groups.empty else 'groups'}"
        )
        numbers = row["champion"], row["challenger"], s.min_improvement, row["low"], row["difference"]
        old, new, least, low, difference = map(_number, numbers)
        than = "" if row["verdict"] == EQUAL else " than the champion"
        text = f"{label} {new} against {old}{unit}, {row['verdict']}{than}"
        if s.test == "value":
            return f"{text}: by value, improvement {difference}, more than {least} wanted"
        if math.isnan(row["low"]):
            return f"{text}: too few for a test at confidence {s.confidence:g} ({units})"
        how = f"at confidence {s.confidence:g} (paired bootstrap over {units})"
        return f"{text}: improvement {difference}, at least {low} {how}, more than {least} wanted"

    def _fall(self, row: Mapping[str, Any]) -> str:
        """`audio alone: accuracy falls from 0.61 to 0.35 (guard per_modality 0.05)`."""
        subject, metric = row["what"], row["metric"]
        unit, verb = self._unit(metric), "falls" if metric_spec(metric).higher_is_better else "rises"
        old, new, limit = map(_number, (row["champion"], row["challenger"], row["guard"]))
        label = "mean bias, whatever its sign," if metric == "bias" else _label(metric)
        text = f"{label} {verb} from {old} to {new}{unit}"
        if math.isnan(row["challenger"]):
            reason = _not_finite(self.new, CHALLENGER, subject.removesuffix(" alone"))
            text = f"{label} was {old}{unit}, {reason or 'the challenger has nothing to predict from'}"
        return f"{subject}: {text} (guard {row['rule']} {limit}{unit})"

    def _unit(self, metric: str) -> str:
        unit = {"mape": "%", "nll": "nats"}.get(metric, "")
        unit = self.new.header.unit if metric in IN_TARGET_UNIT else unit
        return f" {unit}" if unit else ""


def _label(metric: str) -> str:
    label = metric_spec(metric).label
    return label if label.isupper() or label == "mAP" else label[0].lower() + label[1:]


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _evaluate(run: Run, split: str, part: str) -> dict[str, float]:
    """Every metric of a part of a run; raises ValueError as `evaluate_predictions`."""
    selected = run.predictions[(run.predictions["split"] == split) & (run.predictions["part"] == part)]
    return evaluate_predictions(
        selected, str(run.info["task"]), class_probabilities(run, split, part, selected)
    )


# ------------------------------------------------------------------------------------------ several seeds
def best_on_validation(runs: Sequence[Run]) -> tuple[Run, dict[str, Any]]:
    """The run with the best first headline metric of its task on validation, the first of equal ones; and the
    spread: `metric`, `split`, `mean`, `std` (ddof = 1, None for one run) and `runs`, each with its seed and
    value. Runs without a finite value are left out. Raises DataError if no run is left."""
    rows: list[tuple[float, Run]] = []
    for run in ordered_runs(runs):
        metric = HEADLINE_METRICS[str(run.info["task"])][0]
        with suppress(ValueError):
            value = _evaluate(run, "val", run.modality or MULTI).get(metric, math.nan)
            rows += [(value, run)] if math.isfinite(value) else []
    if not rows:
        raise DataError(f"None of {len(runs)} runs has a value of its metric on validation.")
    values = [value for value, _ in rows]
    pick = max if metric_spec(metric).higher_is_better else min
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    spread = {"metric": metric, "split": "val", "mean": float(np.mean(values)), "std": deviation}
    each = [run.repeated | {"value": value} for value, run in rows]
    return pick(rows, key=lambda row: row[0])[1], spread | {"runs": each}
