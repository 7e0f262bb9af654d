"""What a race of methods is decided by: shortened recipes, estimated times, who goes on, what to advise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from g2d_pipeline.configuration import Configuration
from g2d_pipeline.evaluation.metrics import HEADLINE_METRICS, evaluate_predictions, metric_spec
from g2d_pipeline.evaluation.records import MULTI, TEACHER
from g2d_pipeline.evaluation.statistics import JOINT
from g2d_pipeline.evaluation.tables import format_value
from g2d_pipeline.overrides import Tree, leaves, merge

GUESS = 2.0  # an epoch of a method that was not tried yet, in epochs of joint training
ENSEMBLE_METHOD = "ume"
LEAST = 2  # epochs of a shortened training
SCHEDULE = ("every", "warmup", "patience", "milestones")  # settings of a learning rate in epochs
COUNTED = ("epoch", "epochs", "patience")  # how parameters of methods end that are numbers of epochs


def shortened(params: Tree, c: Configuration, share: float) -> Tree:
    """`params`, from which `c` was resolved, with a share of the epochs: see `scaled`. Options (`tau`) of all
    methods for which each method now has its own value are removed, as they would win."""
    changes = scaled(c, share)
    replaced = {path[-1] for path, _ in leaves(changes.get("methods", {}))}
    rest = {key: value for key, value in params.items() if key not in replaced}
    if isinstance(smp := rest.get("smp"), Mapping):
        rest["smp"] = {key: value for key, value in smp.items() if key not in replaced}
    return merge({key: value for key, value in rest.items() if value or key != "smp"}, changes)


def scaled(c: Configuration, share: float) -> Tree:
    """The parameters with which the students train a share of their epochs, every schedule with them: tau,
    steps and warm-up of the learning rate, and what methods count in epochs. Teachers stay as they are."""
    if share >= 1:
        return {}
    training, epochs = c.dataset.training, short_epochs(c, share)
    ratio = epochs / training.epochs
    schedule = training.lr_schedule.model_dump()
    schedule |= {key: _times(schedule[key], ratio) for key in SCHEDULE if key in schedule}
    tree: Tree = {"training": {"epochs": epochs, "lr_schedule": schedule}}
    if training.early_stopping:
        tree["training"]["early_stopping"] = _times(training.early_stopping, ratio)
    methods: Tree = {}
    for name, method in c.methods.items():
        counted = {key: value for key, value in method.parameters.items() if key.endswith(COUNTED)}
        shorter = {key: _times(value, ratio) for key, value in counted.items()}
        changed: Tree = {key: value for key, value in shorter.items() if value != counted[key]}
        if method.smp and not isinstance(method.smp.tau, str):
            phases = method.smp.phases(len(c.encoders), method.training.epochs)
            changed["smp"] = {"tau": _short_tau(phases, epochs)}
        if method.training.epochs != training.epochs:
            changed["training"] = {"epochs": max(_times(method.training.epochs, ratio), 1)}
        if changed:
            methods[name] = changed
    return tree | {"teacher": c.teacher_training.model_dump(mode="json"), "methods": methods}


def short_epochs(c: Configuration, share: float) -> int:
    """The epochs of a share of them."""
    epochs = c.dataset.training.epochs
    return epochs if share >= 1 else min(max(round(epochs * share), LEAST), epochs)


def _times(value: Any, ratio: float) -> Any:
    """A number of epochs, or a list of them, shortened: 0 stays 0, others are 1 at least. Other values are
    returned as they are."""
    if isinstance(value, list):
        return [_times(item, ratio) for item in value]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return max(round(value * ratio), min(value, 1))


def _short_tau(phases: Sequence[int], epochs: int) -> list[int]:
    """The epochs of each phase but the last, to which one is left at least."""
    alone = [_times(tau, epochs / sum(phases)) for tau in phases[:-1]]
    while sum(alone) >= epochs and max(alone) > 0:
        alone[alone.index(max(alone))] -= 1
    return alone


@dataclass
class Costs:
    """Seconds of trainings, estimated from finished ones. `rates`: method → (epochs, seconds) of its longest
    training, the last one of equals: the load of the machine may change."""

    rates: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, name: str, epochs: int, seconds: float) -> None:
        """Count a finished training."""
        if epochs >= self.rates.get(name, (0, 0.0))[0]:
            self.rates[name] = epochs, seconds

    def estimate(self, name: str, epochs: int) -> float:
        """Seconds of a training. A method that was never trained takes as long as others on average, or
        `GUESS` times as long as joint training where there are none."""
        if name in self.rates:
            trained, seconds = self.rates[name]
            return seconds * epochs / trained
        rivals = [m for m in self.rates if m not in (JOINT, ENSEMBLE_METHOD)]
        others = [self.estimate(m, epochs) for m in rivals if not m.startswith(f"{TEACHER}/")]
        if others:
            return sum(others) / len(others)
        return GUESS * self.estimate(JOINT, epochs) if JOINT in self.rates else 0.0


def makespan(seconds: Sequence[float], processes: int) -> float:
    """The longest that `processes` take for independent tasks in any order (Graham's bound)."""
    return sum(seconds) / processes + max(seconds, default=0.0) * (1 - 1 / processes)


def fitting(groups: Sequence[tuple[str, Sequence[float]]], processes: int, seconds: float) -> list[str]:
    """The names of the first groups of tasks that end in time, up to the first that does not."""
    chosen: list[str] = []
    total: list[float] = []
    for name, group in groups:
        total += group
        if makespan(total, processes) > seconds:
            break
        chosen.append(name)
    return chosen


@dataclass(frozen=True)
class Score:
    """The main metric on validation, and the value that decides between equals; greater is better."""

    value: float
    tie: float

    @property
    def rank(self) -> list[float]:
        return [-math.inf if math.isnan(x) else x for x in (self.value, self.tie)]


def validation_score(predictions: Sequence[pd.DataFrame], task: str) -> Score:
    """The mean over runs of the main metric (oriented: greater is better) on val; equals: by likelihood."""
    frames = (frame[(frame["split"] == "val") & (frame["part"] == MULTI)] for frame in predictions)
    values = [evaluate_predictions(frame, task) for frame in frames]

    def mean(metric: str) -> float:
        total = sum(scores[metric] for scores in values) / len(values)
        return total if metric_spec(metric).higher_is_better else -total

    second = {"classification": "nll", "regression": "mae"}[task]
    return Score(mean(HEADLINE_METRICS[task][0]), mean(second))


def survivors(scores: Mapping[str, Score], keep: float, least: int = 2) -> list[str]:
    """The best share of the methods, the best first; equals in their order."""
    order = sorted(scores, key=lambda name: scores[name].rank, reverse=True)
    return order[: max(math.ceil(len(order) * keep), least)]


@dataclass(frozen=True)
class Advice:
    """What is recommended (a method, or `unimodal` and its modality), and why."""

    method: str
    modality: str
    sentences: list[str]


def advise(comparisons: pd.DataFrame, winner: str, teacher: str, metric: str, margin: float) -> Advice:
    """What the comparisons on test say of the method that validation chose, and of one modality alone.

    `comparisons`: see `statistics.comparisons`, of `winner` and joint training; `teacher`: the modality of
    the best teacher on val; `margin`: see `AdviseSettings`."""
    chosen, sentences = JOINT, []
    verdict, gain = _gain(comparisons, winner, JOINT, metric, margin)
    if winner == JOINT:
        sentences.append("Joint training is as good as anything here: nothing was above it on validation.")
    elif verdict == "unknown":
        sentences.append(f"{winner} was best on validation; there is nothing to compare it with on test.")
        chosen = winner
    elif verdict == "gain":
        sentences.append(f"{winner}, best on validation, is better than joint training on test: {gain}.")
        chosen = winner
    elif verdict == "none":
        sentences.append(
            f"Joint training is as good as anything here: {winner}, best on validation, does not gain "
            f"on test: {gain}."
        )
    else:
        sentences.append(
            f"{winner} was best on validation, but is not told apart from joint training on test: "
            f"{gain}. Joint training is the plain choice until more data or seeds tell them apart."
        )
    verdict, gain = _gain(comparisons, chosen, f"{TEACHER} · {teacher}", metric, margin)
    if verdict == "gain":
        sentences.append(f"Multimodality pays: {chosen} is better than {teacher} alone: {gain}.")
    elif verdict == "none":
        sentences.append(f"Use one modality: {teacher} alone is as good; {chosen} against it: {gain}.")
        return Advice(TEACHER, teacher, sentences)
    elif verdict == "unclear":
        sentences.append(f"Whether {chosen} is worth more than {teacher} alone is not told apart: {gain}.")
    return Advice(chosen, "", sentences)


def _gain(
    comparisons: pd.DataFrame, method: str, against: str, metric: str, margin: float
) -> tuple[Literal["gain", "none", "unclear", "unknown"], str]:
    """Whether a method gains on test, and its gain with the 95 % interval in words. `none`: less than the
    margin, surely; `unknown`: the two were not compared."""
    c = comparisons[(comparisons["split"] == "test") & (comparisons["part"] == MULTI)]
    c = c[(c["method"] == method) & (c["against"] == against) & (c["metric"] == metric)]
    if c.empty:
        return "unknown", ""
    row, spec = c.iloc[0], metric_spec(metric)
    least = margin if spec.higher_is_better else margin * abs(row["reference"])
    texts = [format_value(metric, row[key]).replace("-", "−") for key in ("difference", "low", "high")]
    sign = "+" if row["difference"] > 0 else ""
    unit = "points" if spec.unit == "%" else spec.label
    of_error = "" if spec.higher_is_better else "a gain of "  # whose sign is not that of the metric
    text = f"{of_error}{sign}{texts[0]} {unit} (95 % interval {texts[1]} to {texts[2]})"
    return "none" if row["high"] < least else "gain" if row["low"] > 0 else "unclear", text
