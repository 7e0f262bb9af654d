"""The findings of an evaluation as sentences, by rules: for terminal, `metrics.json` and the report's top.

Each fact is in one sentence; remarks on the numbers themselves are in `notes`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .metrics import metric_spec
from .records import MULTI, TEACHER, select
from .resampling import ENSEMBLE
from .statistics import BETTER, EQUAL, JOINT, LEVEL, WORSE
from .summary_json import ranking_disagreements
from .tables import format_value, main_metric

ENOUGH = 5  # seeds, from which on more of them are not the next step
SAME_PROBE = 0.02  # accuracy, R²: probes on two features count as equal up to this difference
PAYS = {
    BETTER: "Multimodality pays",
    EQUAL: "It is not shown that multimodality pays",
    WORSE: "Multimodality does not pay",
}


@dataclass(frozen=True)
class Sentence:
    """One finding: its topic, its text and, where there is something to do, the command line."""

    topic: str
    text: str
    command: str = ""

    def __str__(self) -> str:
        return f"{self.text} Try: {self.command}" if self.command else self.text


class _Numbers:
    """The main metric: `methods`, the rows of `summary` of all modalities; of these the `best`, among the
    methods with the most runs; `comparisons`, and on test of all modalities `tested`."""

    def __init__(self, summary: pd.DataFrame, comparisons: pd.DataFrame, unit: str) -> None:
        self.metric, self.spec = (name := main_metric(summary)), metric_spec(name)
        self.label = self.spec.label if self.spec.label.isupper() else self.spec.label.lower()
        self.unit = unit
        self.comparisons = select(comparisons, metric=name)
        self.tested = select(self.comparisons, split="test", part=MULTI)
        methods = select(summary, metric=name, part=MULTI).dropna(subset=["mean"])
        self.methods = methods[methods["method"] != TEACHER]
        complete = self.methods[self.methods["n"] == self.methods["n"].max()]
        self.complete = complete.sort_values("mean", ascending=not self.spec.higher_is_better, kind="stable")

    @property
    def best(self) -> str:
        return str(self.complete["method"].iloc[0])

    def text(self, mean: float, std: float = float("nan"), metric: str = "") -> str:
        """`82.6 ± 0.5 %`."""
        name = metric or self.metric
        unit = metric_spec(name).unit.replace("target", self.unit)
        return f"{format_value(name, mean, std)} {unit}".rstrip()

    def row(self, against: str) -> dict[Any, Any] | None:
        """The comparison of the best method with another one on test."""
        rows = select(self.tested, method=self.best, against=against)
        return None if rows.empty else rows.iloc[0].to_dict()

    def compared(self, row: dict[Any, Any], name: str) -> str:
        """`better than <name> by 3.7 points (95 % interval 1.2 to 6.2, p = 0.01)`."""
        difference, low, high = (
            format_value(self.metric, row[c]).replace("-", "−") for c in ("difference", "low", "high")
        )
        p = "p < 0.001" if row["p_holm"] < 0.001 else f"p = {row['p_holm']:.2g}"
        evidence = f"{LEVEL:.0%} interval {low} to {high}, {p}".replace("%", " %")
        unit = self.spec.difference_unit(self.unit)
        if row["result"] == EQUAL:
            return f"not told apart from {name} (difference {f'{difference} {unit}'.rstrip()}, {evidence})"
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
    modality, metric, split, value; `rankings`: see `ranking_record`; `apart`: sentences on runs whose val and
    test differ (see `notes.val_unlike_test`). Empty where no method was trained."""
    numbers = _Numbers(summary, comparisons, unit)
    if numbers.methods.empty:
        return []
    disagree = ranking_disagreements(rankings) if rankings is not None else []
    sentences = [
        *_best(numbers),
        *_opponents(numbers),
        *_under_used(numbers, shapley, probes),
        *_validation(numbers),
        *(Sentence("val and test", text) for text in apart),
    ]
    if disagree:
        text = (
            "The teachers rank differently on train and on validation data "
            f"(seed {', '.join(map(str, disagree))}): a teacher that remembers its training data looks "
            "stronger than it is."
        )
        sentences.append(Sentence("ranking", text))
    return [*sentences, _next(numbers, bool(disagree))]


def _best(numbers: _Numbers) -> Iterator[Sentence]:
    name, best = numbers.best, numbers.complete.iloc[0]
    label, value = numbers.label, numbers.text(best["mean"], best["std"])
    text = f"{name} reaches {value} {label} on test."
    if row := numbers.row(JOINT):
        compared = numbers.compared(row, "joint training")
        text = f"{name} has the best {label} on test, {value}: {compared}."
    elif name == JOINT and len(numbers.complete) > 1:
        text = f"No method is above joint training on test, {value} {label}."
    yield Sentence("best method", text)
    others = select(numbers.tested, against=JOINT)
    others = others[others["method"] != name]
    for result in (BETTER, WORSE):
        if names := ", ".join(select(others, result=result)["method"]):
            yield Sentence("other methods", f"Also {result} than joint training: {names}.")
    if (numbers.comparisons["runs"].max() if len(numbers.comparisons) else best["n"]) == 1:
        text = "One run of each: this compares these models; another seed may turn it round."
        yield Sentence("one run", text)


def _opponents(numbers: _Numbers) -> Iterator[Sentence]:
    """The best method against the best teacher, and against the ensemble of all teachers."""
    best = numbers.best
    for against in numbers.tested["against"].unique():
        if against not in (JOINT, ENSEMBLE) and (row := numbers.row(against)):
            compared = numbers.compared(row, f"the best teacher, {against}")
            yield Sentence("multimodality", f"{PAYS[row['result']]}: {best} is {compared}.")
    if row := numbers.row(ENSEMBLE):
        text = (
            "The mean of the teachers’ predictions, with nothing trained together, reaches "
            f"{numbers.text(row['reference'])}: {best} is {numbers.compared(row, 'it')}."
        )
        yield Sentence("ensemble of teachers", text)


def _under_used(
    numbers: _Numbers, shapley: pd.DataFrame | None, probes: pd.DataFrame | None
) -> Iterator[Sentence]:
    """The modalities of the best method and of joint training that are worse than their teacher."""
    worse = select(numbers.comparisons, split="test", result=WORSE)
    worse = worse[(worse["part"] != MULTI) & worse["method"].isin([numbers.best, JOINT])]
    for row in worse.to_dict(orient="records"):
        method, m = row["method"], row["part"]
        text = (
            f"{method} under-uses {m}: from it alone the model reaches {numbers.text(row['value'])}, its "
            f"teacher {numbers.text(row['reference'])}"
        )
        if shapley is not None:
            values = select(shapley, method=method)
            if (total := values["value"].sum()) > 0:
                share = select(values, part=m)["value"].sum() / total
                text += f"; its Shapley value is {share:.0%} of the whole".replace("%", " %")
        yield Sentence("under-used modality", f"{text}{_probe(numbers, probes, method, m)}.")


def _probe(numbers: _Numbers, probes: pd.DataFrame | None, method: str, modality: str) -> str:
    """The linear probes on the features of a modality, in the method and in its teacher."""
    if probes is None:
        return ""
    rows = select(probes, split="test", modality=modality)
    rows = rows[rows["metric"].isin(["accuracy", "r2"])]
    means = rows.groupby("method")["value"].mean()
    if method not in means or TEACHER not in means:
        return ""
    inside, teacher = means[method], means[TEACHER]
    texts = [numbers.text(value, metric=rows["metric"].iloc[0]) for value in (inside, teacher)]
    why = "what the encoder learnt is less" if inside < teacher - SAME_PROBE else "the encoder knows as much"
    return f"; a linear probe reaches {texts[0]} on its features, {texts[1]} on the teacher's: {why}"


def _validation(numbers: _Numbers) -> Iterator[Sentence]:
    """Whether validation would have chosen another method."""
    best, val = numbers.best, select(numbers.comparisons, split="val", against=JOINT, part=MULTI)
    if val.empty:
        return
    values = dict(zip(val["method"], val["value"], strict=True)) | {JOINT: val["reference"].iloc[0]}
    chosen = max(values, key=lambda name: numbers.spec.sign * values[name])
    if best in values and values[chosen] != values[best]:
        text = f"Validation would have chosen {chosen}, {numbers.text(values[chosen])} there, {best} "
        yield Sentence("val and test", f"{text}{numbers.text(values[best])}.")


def _next(numbers: _Numbers, disagree: bool) -> Sentence:
    """One thing to try next. `disagree`: whether the teachers' rankings do."""
    name, methods = numbers.best, set(numbers.methods["method"])
    dataset = numbers.complete["dataset"].iloc[0]
    run = f"kedro run --params dataset={dataset}"
    joint, ensemble = numbers.row(JOINT), numbers.row(ENSEMBLE)
    better = joint is not None and joint["result"] == BETTER
    teachers = numbers.tested[~numbers.tested["against"].isin([JOINT, ENSEMBLE])]
    if WORSE in set(select(teachers, method=name)["result"]):
        return Sentence("next", "Use the best teacher alone.", f"{run},method={TEACHER}")
    if ensemble and ensemble["result"] == WORSE and "ume" not in methods:
        return Sentence("next", "Use the ensemble of teachers.", f"{run},method=ume")
    if disagree and "g2d" in methods and "g2d_val" not in methods and not (better and name != "g2d"):
        return Sentence(
            "next", "Rank the teachers on validation data.", f"{run},method=g2d_val,compare=joint"
        )
    if better:
        return Sentence("next", f"Use {name}.", f"{run},method={name}")
    if joint and joint["difference"] > 0 and joint["runs"] < ENOUGH and "folds" not in numbers.complete:
        seeds = "/".join(map(str, range(ENOUGH)))
        command = f"{run},method={name},compare=joint,seeds={seeds}"
        return Sentence("next", "More seeds may tell them apart.", command)
    command = f"kedro run --pipeline evaluate --params study=advise,dataset={dataset},minutes=30"
    return Sentence("next", "Let all methods race on validation.", command)
