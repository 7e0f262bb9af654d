"""What the numbers say, in sentences made by rules: for the terminal, `metrics.json` and the report's top.

Every fact stands in one sentence; what has to be known beside the numbers is in `notes`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .metrics import metric_spec
from .records import MULTI, TEACHER
from .resampling import ENSEMBLE
from .statistics import BETTER, EQUAL, JOINT, LEVEL, WORSE
from .summary_json import ranking_disagreements
from .tables import format_value, main_metric

ENOUGH = 5  # seeds, from which on more of them are not what to try next
SAME_PROBE = 0.02  # accuracy, R²: probes on two features are taken for equal up to this


@dataclass(frozen=True)
class Sentence:
    """One finding: what it is about, in words, and, where there is something to do, the command line."""

    topic: str
    text: str
    command: str = ""

    def __str__(self) -> str:
        return f"{self.text} Try: {self.command}" if self.command else self.text


@dataclass(frozen=True)
class _Numbers:
    """The main metric of the summary and of the comparisons, and how it is written."""

    summary: pd.DataFrame
    comparisons: pd.DataFrame
    metric: str
    unit: str

    @property
    def label(self) -> str:
        label = metric_spec(self.metric).label
        return label if label.isupper() else label.lower()

    @property
    def measure(self) -> str:
        unit = metric_spec(self.metric).unit
        return self.unit if unit == "target" else unit

    def text(self, mean: float, std: float = float("nan")) -> str:
        """`82.6 ± 0.5 %`."""
        return f"{format_value(self.metric, mean, std)} {self.measure}".rstrip()

    def row(self, method: str, against: str, part: str = MULTI, split: str = "test") -> dict[str, Any] | None:
        c = self.comparisons
        chosen = (c["method"] == method) & (c["against"] == against) & (c["part"] == part)
        rows: list[Any] = c[chosen & (c["split"] == split)].to_dict(orient="records")
        return rows[0] if rows else None

    def compared(self, row: dict[str, Any], name: str) -> str:
        """`better than <name> by 3.7 points (95 % interval 1.2 to 6.2, p = 0.01)`."""
        unit = "points" if self.measure == "%" else self.measure
        difference, low, high = (
            format_value(self.metric, row[c]).replace("-", "−") for c in ("difference", "low", "high")
        )
        p = "p < 0.001" if row["p_holm"] < 0.001 else f"p = {row['p_holm']:.2g}"
        evidence = f"{LEVEL:.0%} interval {low} to {high}, {p}".replace("%", " %")
        if row["result"] == EQUAL:
            size = f"{difference} {unit}".rstrip()
            return f"not told apart from {name} (difference {size}, {evidence})"
        size = f"{difference.lstrip('−')} {unit}".rstrip()
        return f"{row['result']} than {name} by {size} ({evidence})"


def verdict(
    summary: pd.DataFrame,
    comparisons: pd.DataFrame,
    *,
    unit: str = "",
    shapley: pd.DataFrame | None = None,
    probes: pd.DataFrame | None = None,
    rankings: pd.DataFrame | None = None,
    apart: Sequence[str] = (),
) -> list[Sentence]:
    """The sentences on `summary` (see `summarise`, on test) and `comparisons` (see `statistics.comparisons`).

    `unit`: the target's; `shapley`: method, seed, part, value; `probes`: method (or `"unimodal"`), seed,
    modality, metric, split, value; `rankings`: see `ranking_record`; `apart`: what is to be said of runs
    whose val and test differ (see `notes.val_unlike_test`). Empty where no method was trained."""
    metric = main_metric(summary)
    own = summary[summary["metric"] == metric]
    numbers = _Numbers(own, comparisons[comparisons["metric"] == metric], metric, unit)
    methods = own[(own["method"] != TEACHER) & (own["part"] == MULTI) & own["mean"].notna()]
    if methods.empty:
        return []
    complete = methods[methods["n"] == methods["n"].max()]
    best = complete.sort_values(
        "mean", ascending=not metric_spec(metric).higher_is_better, kind="stable"
    ).iloc[0]
    disagree = ranking_disagreements(rankings) if rankings is not None else []
    sentences = [
        *_best(numbers, complete, best),
        *_multimodality(numbers, best["method"]),
        *_ensemble(numbers, best["method"]),
        *_under_used(numbers, best["method"], shapley, probes),
        *_validation(numbers, best["method"], apart),
    ]
    if disagree:
        seeds = ", ".join(map(str, disagree))
        sentences.append(
            Sentence(
                "ranking",
                f"The teachers rank differently on train and on validation data (seed {seeds}): a teacher "
                "that remembers its training data looks stronger than it is.",
            )
        )
    return [*sentences, *_next(numbers, methods, best, sentences)]


def _best(numbers: _Numbers, methods: pd.DataFrame, best: pd.Series) -> Iterator[Sentence]:
    name, value = best["method"], numbers.text(best["mean"], best["std"])
    row = numbers.row(name, JOINT)
    if row:
        yield Sentence(
            "best method",
            f"{name} has the best {numbers.label} on test, {value}: "
            f"{numbers.compared(row, 'joint training')}.",
        )
    elif name == JOINT and len(methods) > 1:
        yield Sentence("best method", f"No method is above joint training on test, {value} {numbers.label}.")
    else:
        yield Sentence("best method", f"{name} reaches {value} {numbers.label} on test.")
    tested = numbers.comparisons.query("against == @JOINT and split == 'test' and part == @MULTI")
    others = tested[tested["method"] != name]
    for result in (BETTER, WORSE):
        if len(who := others.loc[others["result"] == result, "method"]):
            yield Sentence("other methods", f"Also {result} than joint training: {', '.join(who)}.")
    runs = int(numbers.comparisons["runs"].max()) if len(numbers.comparisons) else int(best["n"])
    if runs == 1:
        yield Sentence(
            "one run", "One run of each: this compares these models; another seed may turn it round."
        )


def _multimodality(numbers: _Numbers, best: str) -> Iterator[Sentence]:
    words = {
        BETTER: "Multimodality pays",
        EQUAL: "It is not shown that multimodality pays",
        WORSE: "Multimodality does not pay",
    }
    own = numbers.comparisons[numbers.comparisons["part"] == MULTI]
    for against in [name for name in own["against"].unique() if name not in (JOINT, ENSEMBLE)]:
        if row := numbers.row(best, against):
            compared = numbers.compared(row, f"the best teacher, {against}")
            yield Sentence("multimodality", f"{words[row['result']]}: {best} is {compared}.")


def _ensemble(numbers: _Numbers, best: str) -> Iterator[Sentence]:
    if row := numbers.row(best, ENSEMBLE):
        yield Sentence(
            "ensemble of teachers",
            f"The mean of the teachers’ predictions, with nothing trained together, reaches "
            f"{numbers.text(row['reference'])}: {best} is {numbers.compared(row, 'it')}.",
        )


def _under_used(
    numbers: _Numbers, best: str, shapley: pd.DataFrame | None, probes: pd.DataFrame | None
) -> Iterator[Sentence]:
    """The modalities of the best method and of joint training whose part is worse than their teacher."""
    c = numbers.comparisons
    worse = c[(c["split"] == "test") & (c["part"] != MULTI) & (c["result"] == WORSE)]
    for row in worse[worse["method"].isin([best, JOINT])].to_dict(orient="records"):
        method, m = row["method"], row["part"]
        text = (
            f"{method} under-uses {m}: from it alone the model reaches {numbers.text(row['value'])}, its "
            f"teacher {numbers.text(row['reference'])}"
        )
        if (share := _share(shapley, method, m)) is not None:
            text += f"; its Shapley value is {share:.0%} of the whole".replace("%", " %")
        yield Sentence("under-used modality", f"{text}{_probe(probes, method, m)}.")


def _share(shapley: pd.DataFrame | None, method: str, modality: str) -> float | None:
    """A modality's share of what all modalities add; None where it is not known, or they add nothing."""
    if shapley is None:
        return None
    own = shapley[shapley["method"] == method]
    total = float(own["value"].sum())
    return float(own.loc[own["part"] == modality, "value"].sum()) / total if total > 0 else None


def _probe(probes: pd.DataFrame | None, method: str, modality: str) -> str:
    """What a linear probe says of the features of a modality, in the method and in its teacher."""
    if probes is None:
        return ""
    own = probes[(probes["split"] == "test") & (probes["modality"] == modality)]
    names = [name for name in ("accuracy", "r2") if name in set(own["metric"])]
    if not names:
        return ""
    means = own[own["metric"] == names[0]].groupby("method")["value"].mean()
    if method not in means or TEACHER not in means:
        return ""
    inside, teacher = float(means[method]), float(means[TEACHER])
    unit = metric_spec(names[0]).unit
    texts = [f"{format_value(names[0], value)} {unit}".rstrip() for value in (inside, teacher)]
    why = "what the encoder learnt is less" if inside < teacher - SAME_PROBE else "the encoder knows as much"
    return f"; a linear probe reaches {texts[0]} on its features, {texts[1]} on the teacher's: {why}"


def _validation(numbers: _Numbers, best: str, apart: Sequence[str]) -> Iterator[Sentence]:
    """Whether validation would have chosen another method, and which runs' val is unlike their test."""
    c = numbers.comparisons
    val = c[(c["split"] == "val") & (c["against"] == JOINT) & (c["part"] == MULTI)]
    if len(val):
        values = dict(zip(val["method"], val["value"], strict=True)) | {JOINT: val["reference"].iloc[0]}
        sign = 1 if metric_spec(numbers.metric).higher_is_better else -1
        chosen = max(values, key=lambda name: sign * values[name])
        if best in values and values[chosen] != values[best]:
            yield Sentence(
                "val and test",
                f"Validation would have chosen {chosen}, {numbers.text(values[chosen])} there, {best} "
                f"{numbers.text(values[best])}.",
            )
    for text in apart:
        yield Sentence("val and test", text)


def _next(
    numbers: _Numbers, methods: pd.DataFrame, best: pd.Series, sentences: Sequence[Sentence]
) -> Iterator[Sentence]:
    name, tried = best["method"], set(methods["method"])
    run = f"kedro run --params dataset={best['dataset']}"
    joint, ensemble = numbers.row(name, JOINT), numbers.row(name, ENSEMBLE)
    better = joint is not None and joint["result"] == BETTER
    topics = {sentence.topic for sentence in sentences}
    if any("does not pay" in sentence.text for sentence in sentences):
        yield Sentence("next", "Use the best teacher alone.", f"{run},method={TEACHER}")
    elif ensemble and ensemble["result"] == WORSE and "ume" not in tried:
        yield Sentence("next", "Use the ensemble of teachers.", f"{run},method=ume")
    elif "ranking" in topics and "g2d" in tried and "g2d_val" not in tried and not (better and name != "g2d"):
        yield Sentence("next", "Rank the teachers on validation data.", f"{run},method=g2d_val,compare=joint")
    elif better:
        yield Sentence("next", f"Use {name}.", f"{run},method={name}")
    elif joint and joint["difference"] > 0 and joint["runs"] < ENOUGH and "folds" not in best:
        seeds = "/".join(map(str, range(ENOUGH)))
        command = f"{run},method={name},compare=joint,seeds={seeds}"
        yield Sentence("next", "More seeds may tell them apart.", command)
    else:
        command = f"kedro run --pipeline evaluate --params study=advise,dataset={best['dataset']},minutes=30"
        yield Sentence("next", "Let all methods race on validation.", command)
