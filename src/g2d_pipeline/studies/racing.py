"""What a race of methods is decided by: shortened recipes, estimated times, who goes on, what to advise."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

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
    """`params`, of which `c` was made, with a share of the epochs: see `scaled`. What they say of all methods
    and each method now has a value of its own of (`tau`) is left out, as it would win."""
    changes = scaled(c, share)
    own = {path[-1] for path, _ in leaves(changes.get("methods", {}))}
    rest = {key: value for key, value in params.items() if key not in own}
    if isinstance(smp := rest.pop("smp", None), Mapping):
        smp = {key: value for key, value in smp.items() if key not in own} or None
    return merge(rest if smp is None else {**rest, "smp": smp}, changes)


def scaled(c: Configuration, share: float) -> Tree:
    """The parameters with which the students train a share of their epochs, every schedule with them: tau,
    steps and warm-up of the learning rate, and what methods count in epochs. Teachers stay as they are."""
    if share >= 1:
        return {}
    training, epochs = c.dataset.training, short_epochs(c, share)
    ratio = epochs / training.epochs
    schedule = _shortened(training.lr_schedule.model_dump(), ratio, SCHEDULE)
    tree: Tree = {"training": {"epochs": epochs, "lr_schedule": schedule}}
    if training.early_stopping:
        tree["training"]["early_stopping"] = _times(training.early_stopping, ratio)
    methods: Tree = {}
    for name, method in c.methods.items():
        own = _shortened(method.parameters, ratio, [p for p in method.parameters if p.endswith(COUNTED)])
        changed = {key: value for key, value in own.items() if value != method.parameters[key]}
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


def _times(number: int, ratio: float) -> int:
    """A number of epochs, shortened; none stays none, and some stay some."""
    return max(round(number * ratio), min(number, 1))


def _shortened(settings: Mapping[str, Any], ratio: float, keys: Iterable[str]) -> Tree:
    changed = dict(settings)
    for key in keys:
        value = settings.get(key)
        if isinstance(value, list):
            changed[key] = [_times(item, ratio) for item in value]
        elif isinstance(value, int) and not isinstance(value, bool):
            changed[key] = _times(value, ratio)
    return changed


def _short_tau(phases: Sequence[int], epochs: int) -> list[int]:
    """The epochs of each phase but the last, to which one is left at least."""
    alone = [_times(tau, epochs / sum(phases)) for tau in phases[:-1]]
    while sum(alone) >= epochs and max(alone) > 0:
        alone[alone.index(max(alone))] -= 1
    return alone


@dataclass
class Costs:
    """Seconds of trainings, estimated from those that have ended. `rates`: what is trained → (epochs,
    seconds) of its longest training so far, the last one of equals."""

    rates: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, name: str, epochs: int, seconds: float) -> None:
        """Count a training that has ended; that of the most epochs says most, and of those the last one, for
        the machine may be busier or less so than it was."""
        if epochs >= self.rates.get(name, (0, 0.0))[0]:
            self.rates[name] = epochs, seconds

    def estimate(self, name: str, epochs: int) -> float:
        """Seconds of a training. What was never trained takes as long as other methods did on average, or
        twice as long as joint training where nothing is known of any."""
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
    """The first of the named groups of tasks that end in time, up to the first that does not."""
    chosen: list[str] = []
    every: list[float] = []
    for name, own in groups:
        every += own
        if makespan(every, processes) > seconds:
            break
        chosen.append(name)
    return chosen


@dataclass(frozen=True)
class Score:
    """The main metric on validation, and the value that decides between equals; greater is better."""

    value: float
    tie: float

    @property
    def rank(self) -> tuple[float, float]:
        return tuple(-math.inf if math.isnan(x) else x for x in (self.value, self.tie))  # type: ignore[return-value]


def validation_score(predictions: Sequence[pd.DataFrame], task: str) -> Score:
    """The mean over runs of the main metric (oriented: greater is better) on val; equals: by likelihood."""
    metric, second = HEADLINE_METRICS[task][0], {"classification": "nll", "regression": "mae"}[task]
    rows = []
    for frame in predictions:
        chosen = frame[(frame["split"] == "val") & (frame["part"] == MULTI)]
        values = evaluate_predictions(chosen, task)
        rows.append((_oriented(metric, values[metric]), _oriented(second, values[second])))
    value, tie = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    return Score(value, tie)


def _oriented(metric: str, value: float) -> float:
    return value if metric_spec(metric).higher_is_better else -value


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
    if winner == JOINT:
        sentences.append("Joint training is as good as anything here: nothing was above it on validation.")
    else:
        gain = _Gain.from_comparisons(comparisons, winner, JOINT, metric, margin)
        if gain is None:
            sentences.append(f"{winner} was best on validation; there is nothing to compare it with on test.")
            chosen = winner
        elif gain.is_more:
            chosen = winner
            sentences.append(f"{winner}, best on validation, is better than joint training on test: {gain}.")
        elif gain.is_nothing:
            sentences.append(
                f"Joint training is as good as anything here: {winner}, best on validation, does not gain "
                f"on test: {gain}."
            )
        else:
            sentences.append(
                f"{winner} was best on validation, but is not told apart from joint training on test: "
                f"{gain}. Joint training is the plain choice until more data or seeds tell them apart."
            )
    gain = _Gain.from_comparisons(comparisons, chosen, f"{TEACHER} · {teacher}", metric, margin)
    if gain is None:
        return Advice(chosen, "", sentences)
    if gain.is_more:
        sentences.append(f"Multimodality pays: {chosen} is better than {teacher} alone: {gain}.")
    elif gain.is_nothing:
        sentences.append(f"Use one modality: {teacher} alone is as good; {chosen} against it: {gain}.")
        return Advice(TEACHER, teacher, sentences)
    else:
        sentences.append(f"Whether {chosen} is worth more than {teacher} alone is not told apart: {gain}.")
    return Advice(chosen, "", sentences)


@dataclass(frozen=True)
class _Gain:
    """A difference on test with its interval, in the metric's own unit."""

    metric: str
    difference: float
    low: float
    high: float
    margin: float

    @classmethod
    def from_comparisons(
        cls, comparisons: pd.DataFrame, method: str, against: str, metric: str, margin: float
    ) -> Self | None:
        c = comparisons
        own = c[(c["method"] == method) & (c["against"] == against) & (c["metric"] == metric)]
        rows: list[Any] = own[(own["split"] == "test") & (own["part"] == MULTI)].to_dict(orient="records")
        if not rows:
            return None
        spec, row = metric_spec(metric), rows[0]
        least = margin if spec.higher_is_better else margin * abs(row["reference"])
        return cls(metric, row["difference"], row["low"], row["high"], least)

    @property
    def is_more(self) -> bool:
        """Whether there is one, surely, and one that may matter."""
        return self.low > 0 and not self.is_nothing

    @property
    def is_nothing(self) -> bool:
        """Whether it is less than the margin, surely."""
        return self.high < self.margin

    def __str__(self) -> str:
        texts = [format_value(self.metric, value) for value in (self.difference, self.low, self.high)]
        if self.difference > 0:
            texts[0] = f"+{texts[0]}"
        spec = metric_spec(self.metric)
        unit = "points" if spec.unit == "%" else spec.label
        difference, low, high = (text.replace("-", "−") for text in texts)
        words = "" if spec.higher_is_better else "a gain of "  # whose sign is not that of the metric
        return f"{words}{difference} {unit} (95 % interval {low} to {high})"
