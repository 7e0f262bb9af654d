"""Whether a challenger takes the champion's place: by what both said of one evaluation set, nothing is run.

The rule, its reasons and its error rates: docs/retrain.md."""

import math
from collections.abc import Iterator, Mapping, Sequence
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
from g2d_pipeline.registry.evidence import WITHOUT, Evidence, labels, read_evidence

COMPARED = (
    "rule", "what", "metric", "champion", "challenger", "difference", "low", "high", "guard", "verdict",
)  # fmt: skip
CHAMPION, CHALLENGER = "champion", "challenger"
LEAST = 20  # samples of a group, from which on it is guarded
HOLDS, FALLS, UNGUARDED, UNMEASURED = "holds", "falls", "not guarded", "not measured"
IN_TARGET_UNIT = ("rmse", "mae", "bias")
ROUNDING = 1e-9  # a fall by the guard itself is none
CALIBRATION = {"classification": "ece", "regression": "bias"}


@dataclass(frozen=True)
class Decision:
    """Whether to `promote`; `reasons`: why, or why not, a sentence each; `comparisons`: a row a comparison.

    Its columns are `COMPARED`. `rule`: `metric` or a guard's name; `what` is compared (`all modalities`,
    `audio alone`, `without audio`, `group x`, `calibration`) by which `metric`; `difference`, oriented: > 0
    is better, with one-sided confidence bounds `low` and `high` (NaN where there are none); `guard`: the
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

    Raises DataError where the challenger's evidence is missing or damaged (the champion's: it is kept, with
    that reason); ConfigError where `metric` is none of the task."""
    new = read_evidence(challenger)
    metric = settings.metric or HEADLINE_METRICS[new.header.task][0]
    if metric not in PROMOTED_BY[new.header.task]:
        raise ConfigError(f"retrain.promote.metric = {metric}: no metric of a {new.header.task}")
    if reason := _not_finite(new, CHALLENGER):
        return _refused([reason])
    if champion is None:
        return Decision(True, ["promoted: it is the first model"], _frame([]))
    try:
        old = read_evidence(champion)
    except DataError as error:
        return _refused([f"the champion can not be compared with: {error}"])
    if reasons := [*_incomparable(old, new), *filter(None, [_not_finite(old, CHAMPION)])]:
        return _refused(reasons)
    return _Comparison(old, new, metric, settings).decision()


def _refused(reasons: Sequence[str], rows: Sequence[Mapping[str, Any]] = ()) -> Decision:
    return Decision(False, [f"refused: {reason}" for reason in reasons], _frame(rows))


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COMPARED))


def _not_finite(evidence: Evidence, who: str, part: str = MULTI) -> str:
    if not (bad := evidence.infinite(part)):
        return ""
    return (
        f"the {who}’s logits of {len(bad)} of {evidence.header.samples} samples are NaN or infinite "
        f"({enumerated(bad, 3)})"
    )


def _incomparable(old: Evidence, new: Evidence) -> Iterator[str]:
    a, b = old.header, new.header
    remedy = "`kedro models promote` makes it the champion all the same"
    for name, x, y in (("task", a.task, b.task), ("target’s unit", a.unit, b.unit)):
        if x != y:
            yield f"the {name} is {y or 'none'}, the champion’s {x or 'none'}: {remedy}"
    if a.task == b.task and a.class_names != b.class_names:
        gone, more = (
            [c for c in x if c not in y]
            for x, y in ((a.class_names, b.class_names), (b.class_names, a.class_names))
        )
        words = [f"without {enumerated(gone, 5)}"] * bool(gone) + [f"with {enumerated(more, 5)}"] * bool(more)
        yield f"the classes are not the champion’s: {', '.join(words) or 'in another order'}: {remedy}"
    if a.task == b.task and a.evaluation_set != b.evaluation_set:
        first, second = (
            dict(zip(e.table["sample_id"], labels(e.table, e.header.class_names), strict=True))
            for e in (old, new)
        )
        gone, more = ([i for i in x if i not in y] for x, y in ((first, second), (second, first)))
        other = [i for i in first if i in second and first[i] != second[i]]
        cases = {"only the champion has": gone, "only the challenger has": more, "another target have": other}
        words = [f"{what} {len(ids)} ({enumerated(ids, 3)})" for what, ids in cases.items() if ids]
        yield f"the evaluation set is not the champion’s: {'; '.join(words)}: {remedy}"


class _Scores:
    """Both models' metrics on the same samples (`at` `[n]`: some of them, each for itself) and resamples of
    them, or of their groups."""

    def __init__(self, old: Evidence, new: Evidence, parts: Sequence[str], at: Any = None) -> None:
        self.runs = {CHAMPION: old.run(CHAMPION, parts, at), CHALLENGER: new.run(CHALLENGER, parts, at)}
        by_key = resample(list(self.runs.values()))
        self.resampled = {(key.method, key.part): one for key, one in by_key.items()}

    def value(self, who: str, part: str, metric: str) -> float:
        """NaN where it has no such part."""
        if (who, part) not in self.resampled:
            return math.nan
        if metric not in UNTESTED:
            value = self.resampled[who, part].values.get(metric, math.nan)
            return abs(value) if metric == "bias" else value
        run = self.runs[who]
        selected = run.predictions[run.predictions["part"] == part]
        probabilities = class_probabilities(run, "test", part, selected)
        return evaluate_predictions(selected, run.info["task"], probabilities)[metric]

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
        of_both = [one.replicates[metric] for one in pair if metric in one.replicates and metric != "bias"]
        if len(of_both) < 2 or (units := pair[0].units) < 2 or 0.5**units > 1 - confidence:
            return row | {"low": math.nan, "high": math.nan}
        replicates = sign * (of_both[1] - of_both[0])
        low, high = percentiles(replicates, units, 2 * confidence - 1)
        replicates = replicates[np.isfinite(replicates)][None]
        spread = spread_of(np.array([difference]), replicates, np.zeros(1, int), {0: units})
        half = float(half_width(spread, 2 * (1 - confidence)))
        return row | {"low": min(low, difference - half), "high": max(high, difference + half)}


class _Comparison:
    """Champion and challenger on the evaluation set, in the order and groups of the challenger's."""

    def __init__(self, old: Evidence, new: Evidence, metric: str, settings: PromoteSettings) -> None:
        order = new.table[["sample_id", *(c for c in ("group",) if c in new.table)]]
        table = order.merge(old.table.drop(columns="group", errors="ignore"), on="sample_id", validate="1:1")
        old = Evidence(old.header, table)
        self.old, self.new, self.metric, self.settings = old, new, metric, settings
        self.modalities = list(dict.fromkeys([*old.header.modalities, *new.header.modalities]))
        if len(self.modalities) == 1:
            self.modalities = []  # which is what all modalities say
        self.parts = [MULTI, *self.modalities, *[WITHOUT + m for m in self.modalities]]
        target = new.table["target"].to_numpy(float)
        self.spread = float(target.std()) if new.header.task == "regression" else 1.0
        self.scores = _Scores(old, new, self.parts)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The row of the rule `metric`, then those of the guards."""
        guard, c, compare = self.settings.guard, self.settings.confidence, self.scores.compare
        row = compare(MULTI, self.metric, c)
        least, most = self._ends(row)
        verdict = BETTER if least > 0 else WORSE if most < 0 else EQUAL
        verdict = verdict if math.isfinite(row["difference"]) else UNMEASURED
        limits = {"guard": self.settings.min_improvement, "verdict": verdict}
        yield {"rule": "metric", "what": "all modalities", **row, **limits}
        for m in self.modalities:
            row = compare(m, self.metric, c)
            yield self._guarded("per_modality", f"{m} alone", row, guard.per_modality)
        for part in [WITHOUT + m for m in self.modalities]:
            row = compare(part, self.metric, c)
            yield self._guarded("missing_modality", part, row, guard.missing_modality)
        yield from self._groups()
        row = compare(MULTI, CALIBRATION[self.new.header.task], c)
        yield self._guarded("calibration", "calibration", row, guard.calibration)

    def _ends(self, row: Mapping[str, Any]) -> tuple[float, float]:
        """The bounds of the difference that count, which by value is the difference itself."""
        by_value = self.settings.test == "value"
        return (row["difference"],) * 2 if by_value else (row["low"], row["high"])

    def _groups(self) -> Iterator[dict[str, Any]]:
        """The rows of the groups of `LEAST` samples or more, with bounds at Bonferroni's level over them."""
        groups = self.new.table["group"] if "group" in self.new.table else pd.Series(dtype=object)
        counts = groups.value_counts().sort_index()
        large = counts[counts >= LEAST]
        for group, count in large.items():
            scores = _Scores(self.old, self.new, [MULTI], (groups == group).to_numpy())
            row = scores.compare(MULTI, self.metric, 1 - (1 - self.settings.confidence) / len(large))
            what = f"group {group} ({count} samples)"
            yield self._guarded("per_group", what, row, self.settings.guard.per_group)

    def _guarded(self, rule: str, what: str, row: dict[str, Any], guard: float | None) -> dict[str, Any]:
        """A row of a guard: it falls where it loses more than the guard and is shown to lose, as far as there
        is a test; by chance alone a value moves by more than a guard where samples or groups are few."""
        scale = {"mape": 100.0, **dict.fromkeys(IN_TARGET_UNIT, self.spread)}.get(row["metric"], 1.0)
        limit = math.nan if guard is None else guard * scale
        falls = row["difference"] < -limit - ROUNDING and not self._ends(row)[1] >= 0
        if math.isnan(row["challenger"]) and math.isfinite(row["champion"]) and rule != "per_group":
            falls = True
        measured = HOLDS if math.isfinite(row["difference"]) else UNMEASURED
        verdict = UNGUARDED if guard is None else FALLS if falls else measured
        return {"rule": rule, "what": what, **row, "guard": limit, "verdict": verdict}

    def decision(self) -> Decision:
        rows = list(self.rows())
        headline, *guards = rows
        reasons = [self._fall(row) for row in guards if row["verdict"] == FALLS]
        if all(_equal(self.old.logits(part), self.new.logits(part)) for part in self.parts):
            reasons.insert(0, "it predicts exactly what the champion predicts")
        elif not self._ends(headline)[0] > self.settings.min_improvement:
            reasons.insert(0, self._headline(headline))
        if reasons:
            return _refused(reasons, rows)
        held = sum(row["verdict"] == HOLDS for row in guards)
        passed = f"{held} guarded comparisons hold" if held else "nothing is guarded"
        return Decision(True, [f"promoted: {self._headline(headline)}", passed], _frame(rows))

    def _headline(self, row: Mapping[str, Any]) -> str:
        """`accuracy 0.83 against 0.8, not told apart: …`."""
        s, label, unit = self.settings, _label(self.metric), self._unit(self.metric)
        if row["verdict"] == UNMEASURED:
            return f"{label} is not defined on the evaluation set"
        units = self.scores.resampled[CHALLENGER, MULTI].units
        whole = f"{units} {'groups' if 'group' in self.new.table else 'samples'}"
        old, new, least, low, difference = map(
            _number, (row["champion"], row["challenger"], s.min_improvement, row["low"], row["difference"])
        )
        than = "" if row["verdict"] == EQUAL else " than the champion"
        text = f"{label} {new} against {old}{unit}, {row['verdict']}{than}"
        if s.test == "value":
            return f"{text}: by value, improvement {difference}, more than {least} wanted"
        if math.isnan(row["low"]):
            return f"{text}: too few for a test at confidence {s.confidence:g} ({whole})"
        how = f"at confidence {s.confidence:g} (paired bootstrap over {whole})"
        return f"{text}: improvement {difference}, at least {low} {how}, more than {least} wanted"

    def _fall(self, row: Mapping[str, Any]) -> str:
        """`audio alone: accuracy falls from 0.61 to 0.35 (guard per_modality 0.05)`."""
        what, metric = row["what"], row["metric"]
        unit, goes = self._unit(metric), "falls" if metric_spec(metric).higher_is_better else "rises"
        old, new, limit = map(_number, (row["champion"], row["challenger"], row["guard"]))
        label = "mean bias, whatever its sign," if metric == "bias" else _label(metric)
        text = f"{label} {goes} from {old} to {new}{unit}"
        if math.isnan(row["challenger"]):
            why = _not_finite(self.new, CHALLENGER, what.removesuffix(" alone"))
            text = f"{label} was {old}{unit}, {why or 'the challenger has nothing to predict from'}"
        return f"{what}: {text} (guard {row['rule']} {limit}{unit})"

    def _unit(self, metric: str) -> str:
        unit = {"mape": "%", "nll": "nats"}.get(metric, "")
        unit = self.new.header.unit if metric in IN_TARGET_UNIT else unit
        return f" {unit}" if unit else ""


def _equal(one: Any, other: Any) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other, equal_nan=True)


def _label(metric: str) -> str:
    label = metric_spec(metric).label
    return label if label.isupper() or label == "mAP" else label[0].lower() + label[1:]


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


# ------------------------------------------------------------------------------------------ several seeds
def best_on_validation(runs: Sequence[Run]) -> tuple[Run, dict[str, Any]]:
    """The run with the best first headline metric of its task on validation, the first of equal ones; and the
    spread: `metric`, `split`, `mean`, `std` (ddof = 1, None for one run) and `runs`, each with its seed and
    value. A run without a finite value is none to choose. Raises DataError for no such."""
    rows: list[tuple[float, Run]] = []
    for run in ordered_runs(runs):
        task = str(run.info["task"])
        name = HEADLINE_METRICS[task][0]
        part = run.modality or MULTI
        selected = run.predictions[(run.predictions["split"] == "val") & (run.predictions["part"] == part)]
        try:
            scores = evaluate_predictions(selected, task, class_probabilities(run, "val", part, selected))
        except ValueError:
            continue
        if math.isfinite(value := scores.get(name, math.nan)):
            rows.append((value, run))
    if not rows:
        raise DataError(f"None of {len(runs)} runs has a value of its metric on validation.")
    values = [value for value, _ in rows]
    pick = max if metric_spec(name).higher_is_better else min
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    spread = {"metric": name, "split": "val", "mean": float(np.mean(values)), "std": deviation}
    each = [run.repeated | {"value": value} for value, run in rows]
    return pick(rows, key=lambda row: row[0])[1], spread | {"runs": each}
