"""Which method for these data? All race on validation within a given time: `study=advise`."""

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import click
import pandas as pd

from g2d_pipeline.cards import Clock, read_card, whole_folder
from g2d_pipeline.config.studies import AdviseSettings
from g2d_pipeline.errors import ConfigError, TrainingError
from g2d_pipeline.evaluation.metrics import HEADLINE_METRICS, collect_metrics, metric_spec
from g2d_pipeline.evaluation.notes import val_unlike_test
from g2d_pipeline.evaluation.records import MULTI, TEACHER, ordered_runs
from g2d_pipeline.evaluation.resampling import ensemble_runs, resample
from g2d_pipeline.evaluation.statistics import JOINT, comparisons
from g2d_pipeline.evaluation.tables import format_value
from g2d_pipeline.explain import COMMAND_LINE, Origins
from g2d_pipeline.files import fingerprint, relative
from g2d_pipeline.overrides import Tree, as_text, leaves, merge
from g2d_pipeline.progress import duration, track_epochs
from g2d_pipeline.studies import racing, results
from g2d_pipeline.studies.cells import Outcome, Site, Task, Workspace, open_workspace
from g2d_pipeline.studies.runner import Trainings, open_pool
from g2d_pipeline.studies.settings import Point, nested, run_params
from g2d_pipeline.studies.study import FOLDER, Cell, results_of, undefined_methods

logger = logging.getLogger(__name__)
RESERVE = 0.05  # share of the time for what comes after training
Runs = list[tuple[str, str]]  # (stage, run)


def run_advise(study: AdviseSettings, name: str, origins: Origins, site: Site) -> None:
    """Race, and say what to do. Raises ConfigError where the time does not suffice for one training of each
    teacher and of joint training, and for data of one modality."""
    clock = Clock.start()
    race = Race.start(study, name, origins, site)
    with race.pool:
        race.prepare()
        race.baselines()
        finalists = race.run_finals(race.run_rungs())
    folder, text = race.write(finalists, clock)
    project = Path(site.project)
    click.echo(f"\n{text}\nStudy: {relative(folder / 'study.html', project)}")


@dataclass
class Race:
    """A race at work. `full`: everything with all its epochs; `dropped`: method → when and why; `rows`: what
    was trained, a row a method, rung and seed; `seeds`: those of which the baselines are trained."""

    study: AdviseSettings
    name: str
    pool: Trainings
    full: Workspace
    began: float
    costs: racing.Costs = field(default_factory=racing.Costs)
    dropped: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    fresh: int = 0

    @classmethod
    def start(cls, study: AdviseSettings, name: str, origins: Origins, site: Site) -> Self:
        """Open the data set with every method."""
        began = time.time()
        named = study.methods
        if not named:
            known = site.loader({"dataset": study.dataset}).methods
            named = [*(m for m in study.first if m in known), *known]
        methods = [m for m in dict.fromkeys([*named, racing.ENSEMBLE_METHOD, JOINT]) if m != TEACHER]
        params = merge(nested(study.options), run_params(study, study.dataset, methods))
        try:
            full = open_workspace(site, params)
        except ConfigError as error:
            text = str(error).removeprefix(f"{COMMAND_LINE}: ")
            raise ConfigError(f"{COMMAND_LINE}: study {name}: {text}") from error
        if len(full.configuration.encoders) < 2:
            words = f"study {name}: {study.dataset} has one modality: there is nothing to balance"
            raise origins.mistake(("studies", name, "dataset"), f"{words}. Say method=unimodal,compare=")
        return cls(study, name, open_pool(site, name, origins, full.configuration), full, began)

    def prepare(self) -> None:
        """Make the features; note the methods that are not defined for the data set."""
        self.full.prepare()
        self.dropped = {
            method: f"not defined here: {why}"
            for method, why in undefined_methods(self.full.configuration).items()
        }

    def baselines(self) -> None:
        """The teachers, joint training and the ensemble of the first seed, which everything else needs.

        Raises ConfigError where the time does not suffice for them, estimated by a short joint training."""
        runs = self._baseline_runs(self.study.seeds[0])
        self._learn_costs(self.full, runs)
        if self._missing(self.full, runs):
            self._check_time()
        self._make(self.full, runs, f"baselines, seed {self.study.seeds[0]}", self.end)
        if self._missing(self.full, [one for one in runs if _name(one) != racing.ENSEMBLE_METHOD]):
            why = self.dropped.get(JOINT) or "teachers and joint training were not finished in time"
            kept = "what is trained is kept: the same command goes on, with more minutes"
            raise TrainingError(f"study {self.name}: {why}; {kept}")
        self.seeds.append(self.study.seeds[0])

    def _check_time(self) -> None:
        """Raise ConfigError where the time does not suffice for one training of each teacher and of joint."""
        if JOINT not in self.costs.rates:
            workspace = self._shortened(1e-9)
            runs = self._runs(workspace, JOINT, self.study.seeds[0])
            self._make(workspace, runs, "to measure the time", None)
        if JOINT not in self.costs.rates:
            raise TrainingError(f"study {self.name}: {self.dropped.get(JOINT, 'joint training did not end')}")
        joint = self.costs.estimate(JOINT, self.epochs)
        teachers = len(self.full.configuration.dataset.modalities)
        needed = racing.makespan([joint, *[joint / teachers] * teachers], self.pool.workers) + self.elapsed
        if needed > self.time * (1 + RESERVE):
            least = math.ceil(1.3 * needed / 60 / (1 - RESERVE))
            raise ConfigError(
                f"{COMMAND_LINE}: minutes = {self.study.minutes:g} is too little for one training of each "
                f"teacher and of joint training, which take about {duration(needed)} here: say "
                f"minutes={least}, or fewer epochs"
            )

    def run_rungs(self) -> list[str]:
        """The methods that are left for the last round, the best first."""
        outside = {JOINT, racing.ENSEMBLE_METHOD, *self.dropped}
        going = [m for m in self.full.configuration.methods if m not in outside]
        for number, share in enumerate(self.study.rungs, start=1):
            if not going:
                break
            epochs = racing.short_epochs(self.full.configuration, share)
            title = f"round {number} ({epochs} of {self.epochs} epochs)"
            workspace = self._shortened(share)
            time_left = self.remaining - self.costs.estimate(JOINT, self.epochs)
            scores = self._round(workspace, going, epochs, title, min(time_left, self.remaining / 2))
            if not scores:
                continue
            best = racing.survivors(scores, self.study.keep, self.study.finalists)
            self._drop([m for m in scores if m not in best], scores, title, len(best))
            going = best
        return going

    def run_finals(self, going: Sequence[str]) -> list[str]:
        """Train those that are left with all epochs, and the finalists with further seeds while the time
        allows, at last the best alone. Returns the finalists, the best on validation first."""
        title = f"last round ({self.epochs} epochs)"
        scores = self._round(self.full, going, self.epochs, title, self.remaining)
        best = racing.survivors(scores, 0.0, self.study.finalists)
        self._drop([m for m in scores if m not in best], scores, title, len(best))
        for seed in self.study.seeds[1:]:
            if len(best) > 1 and not self._fits(seed, best) and self._fits(seed, best[:1]):
                self.dropped |= dict.fromkeys(best[1:], f"seed {seed}: no time was left for it")
                best = best[:1]
            if not self._fits(seed, best):
                logger.info("%s: no time for seed %d", self.name, seed)
                break
            runs = self._runs_of_seed(seed, best)
            self._make(self.full, runs, f"seed {seed}", self.end)
            if self._missing(self.full, [one for one in runs if one[1].split("/")[0] not in self.dropped]):
                break
            self.seeds.append(seed)
        return best

    def _runs_of_seed(self, seed: int, methods: Sequence[str]) -> Runs:
        return self._baseline_runs(seed) + [one for m in methods for one in self._runs(self.full, m, seed)]

    def _fits(self, seed: int, methods: Sequence[str]) -> bool:
        """Whether baselines and methods can be trained with this seed in the time that remains."""
        runs = self._runs_of_seed(seed, methods)
        costs = [self._cost(one, self.epochs) for one in self._missing(self.full, runs)]
        return racing.makespan(costs, self.pool.workers) <= self.remaining

    def _round(
        self, workspace: Workspace, methods: Sequence[str], epochs: int, title: str, seconds: float
    ) -> dict[str, racing.Score]:
        """Train methods with the first seed, as many as can end within `seconds`, and score them."""
        seed, end = self.study.seeds[0], min(time.time() + seconds, self.end)
        left, chosen = list(methods), list[str]()
        while left:
            groups = []
            for m in left:
                missing = self._missing(workspace, self._runs(workspace, m, seed))
                groups.append((m, [self._cost(one, epochs) for one in missing]))
            if any(own and m not in self.costs.rates for m, own in groups) and not chosen:
                groups = groups[: 2 * self.pool.workers]  # whose times say more than a guess
            fit = racing.fitting(groups, self.pool.workers, end - time.time())
            self._make(workspace, [one for m in fit for one in self._runs(workspace, m, seed)], title, end)
            chosen, left = chosen + fit, left[len(fit) :]
            if len(fit) < len(groups):
                break
        self.dropped |= dict.fromkeys(left, f"{title}: no time was left for it")
        scores = {}
        for m in chosen:
            runs = self._runs(workspace, m, seed)
            if m in self.dropped:
                continue
            if self._missing(workspace, runs):
                self.dropped[m] = f"{title}: the time ran out before it had ended"
                continue
            predictions = [workspace.trained(*one).predictions for one in runs]
            scores[m] = racing.validation_score(predictions, workspace.configuration.dataset.task)
            self._note(workspace, m, title, epochs, seed, scores[m])
        return scores

    @property
    def time(self) -> float:
        """Seconds that may be spent on training."""
        return self.study.minutes * 60 * (1 - RESERVE)

    @property
    def epochs(self) -> int:
        return int(self.full.configuration.dataset.training.epochs)

    @property
    def elapsed(self) -> float:
        return time.time() - self.began

    @property
    def end(self) -> float:
        """When training is to end, as `time.time` says it."""
        return self.began + self.time

    @property
    def remaining(self) -> float:
        return self.end - time.time()

    def _shortened(self, share: float) -> Workspace:
        """Of all methods, also those that are dropped: an option (`tau`) may be one of theirs alone."""
        params = json.loads(self.full.params)
        return open_workspace(self.pool.site, racing.shortened(params, self.full.configuration, share))

    def _runs(self, workspace: Workspace, method: str, seed: int) -> Runs:
        runs = workspace.distill.runs
        return [("distill", r) for r in workspace.students([method]) if runs[r].seed == seed]

    def _baseline_runs(self, seed: int) -> Runs:
        teachers = self.full.configuration.teachers().runs
        runs: Runs = [("teachers", name) for name, run in teachers.items() if run.seed == seed]
        methods = [m for m in (JOINT, racing.ENSEMBLE_METHOD) if m not in self.dropped]
        return runs + [one for m in methods for one in self._runs(self.full, m, seed)]

    def _missing(self, workspace: Workspace, runs: Iterable[tuple[str, str]]) -> Runs:
        workspace.plan.refresh()
        return [one for one in runs if not workspace.plan.is_fresh(*one)]

    def _cost(self, one: tuple[str, str], epochs: int) -> float:
        return self.costs.estimate(_name(one), epochs)

    def _learn_costs(self, workspace: Workspace, runs: Runs) -> None:
        epochs = workspace.configuration.dataset.training.epochs
        for one in set(runs) - set(self._missing(workspace, runs)):
            card = read_card(workspace.plan.folder(*one)) or {}
            self.costs.add(_name(one), epochs, float(card.get("wall_seconds", 0.0)))

    def _make(self, workspace: Workspace, runs: Runs, title: str, end: float | None) -> None:
        """Make what is missing, in this order, but students whose teachers are missing after them, until the
        time `end`; note times and failures."""
        missing = self._missing(workspace, runs)
        self.fresh += len(runs) - len(missing)
        if not missing:
            return self._learn_costs(workspace, runs)
        with track_epochs(f"{self.name}: {title}", 0, len(missing)) as line:
            line.start(1)

            def done(task: Task, outcome: Outcome) -> None:
                line.advance(0, dict)
                if outcome.status == "failed":
                    name = task.run.split("/")[0] if task.stage == "distill" else JOINT
                    self.dropped[name] = f"{title}: {task.stage} {task.run} failed: {outcome.reason}"
                    logger.error("%s: %s", self.name, self.dropped[name])

            absent = {run for stage, run in missing if stage == "teachers"}
            later = [
                one for one in missing if one[0] == "distill" and absent & {*workspace.teachers_of(one[1])}
            ]
            for wave in ([one for one in missing if one not in later], later):
                tasks = [Task(workspace.params, *one) for one in wave]
                self.pool.train(tasks, done, end)
        self._learn_costs(workspace, runs)

    def _note(
        self, workspace: Workspace, method: str, title: str, epochs: int, seed: int, score: racing.Score
    ) -> None:
        cards = [read_card(workspace.plan.folder(*one)) or {} for one in self._runs(workspace, method, seed)]
        seconds = sum(float(card.get("wall_seconds", 0.0)) for card in cards)
        row = {"round": title, "method": method, "epochs": epochs, "seed": seed, "seconds": seconds}
        self.rows.append(row | {"validation": abs(score.value)})

    def _drop(
        self, methods: Sequence[str], scores: Mapping[str, racing.Score], title: str, kept: int
    ) -> None:
        order = sorted(scores, key=lambda m: scores[m].rank, reverse=True)
        for m in methods:
            place = f"{order.index(m) + 1}. of {len(order)}"
            self.dropped[m] = f"{title}: {self._shown(scores[m])} on validation, {place}; {kept} went on"

    def _shown(self, score: racing.Score) -> str:
        spec = metric_spec(self.metric)
        unit = "" if spec.unit == "target" else f" {spec.unit}"
        return f"{spec.label} {format_value(self.metric, abs(score.value))}{unit}"

    @property
    def metric(self) -> str:
        return HEADLINE_METRICS[self.full.configuration.dataset.task][0]

    def write(self, finalists: Sequence[str], clock: Clock) -> tuple[Path, str]:
        """The folder of the results, and the text for the terminal."""
        c = self.full.configuration
        methods = [m for m in (JOINT, racing.ENSEMBLE_METHOD, *finalists) if m not in self.dropped]
        point = Point(self.study.dataset, tuple(methods), {}, json.loads(self.full.params))
        cell = Cell(point, self.full, True)
        seeds = set(self.seeds)
        names = [r for r in self.full.students(methods) if self.full.distill.runs[r].seed in seeds]
        teachers = [r for r, run in c.teachers().runs.items() if run.seed in seeds]
        parts = [results_of(cell, "teachers", teachers), results_of(cell, "distill", names)]
        runs = [run for part in parts for run in part[0]]
        metrics = collect_metrics(runs, c.run.dataset, c.source)
        winner, teacher = self._winners(metrics, methods)
        own = [run for run in runs if run.is_teacher or run.method in (JOINT, winner)]
        compared = comparisons(own, resample([*own, *ensemble_runs(own)]))
        advice = racing.advise(compared, winner, teacher, self.metric, self.study.margin)
        frame = results.cells_frame(
            [results.Part(self.study.dataset, "", c.source, metrics, [], parts[0][2] | parts[1][2])]
        )
        summary = results.summary_frame(frame)
        spent = self.elapsed / 60
        notes = [*advice.sentences, *val_unlike_test(ordered_runs(runs))]
        notes += [f"What to run: {self._command(advice)}", *self._account(spent)]
        title = f"{'SAMPLE · ' * (c.source == 'sample')}{self.name} · {self.study.dataset}"
        about: Tree = {"study": self.name, "settings": self.study.model_dump(mode="json")}
        about |= {"recommended": advice.method, "modality": advice.modality, "winner": winner}
        about |= {"command": self._command(advice), "minutes": round(spent, 2), "seeds": self.seeds}
        about |= {"dropped": self.dropped, "rounds": self.rows}
        about["comparisons"] = json.loads(compared.to_json(orient="records"))
        made = [self.full.plan.fingerprint("distill", name) for name in names]
        card = {"stage": "study", "study": self.name, "inputs": made, "dropped": self.dropped}
        card["fingerprint"] = fingerprint(card)
        folder = c.project / FOLDER / f"{self.name}-{self.study.dataset}-{card['fingerprint']}"
        with whole_folder(folder, card, clock) as partial:
            text = results.write_results(partial, title, notes, frame, summary, about)
            pd.DataFrame(self.rows).to_csv(partial / "rounds.csv", index=False)
        return folder, text

    def _winners(self, metrics: pd.DataFrame, methods: Sequence[str]) -> tuple[str, str]:
        """The best method and the modality of the best teacher, by their means on validation."""
        sign = 1 if metric_spec(self.metric).higher_is_better else -1
        val = metrics[(metrics["split"] == "val") & (metrics["metric"] == self.metric)]
        of_method = val[val["part"] == MULTI].groupby("method")["value"].mean() * sign
        teachers = val[val["method"] == TEACHER].groupby("modality", sort=False)["value"].mean() * sign
        winner = max(methods, key=lambda m: of_method.get(m, -math.inf))  # equals: the plainer one
        return winner, str(teachers.idxmax())

    def _command(self, advice: racing.Advice) -> str:
        seeds = "/".join(map(str, self.seeds))
        compare = "" if advice.method in (TEACHER, JOINT) else JOINT
        options = [f"{'.'.join(path)}={as_text(value)}" for path, value in leaves(self.study.options)]
        words = [f"dataset={self.study.dataset}", f"method={advice.method}", f"compare={compare}"]
        return f"kedro run --params {','.join([*words, f'seeds={seeds}', *options])}"

    def _account(self, spent: float) -> list[str]:
        lines = [
            f"{spent:.1f} of {self.study.minutes:g} minutes; seeds {'/'.join(map(str, self.seeds))}; "
            f"{self.fresh} runs were there already."
        ]
        if len(self.seeds) == 1:
            lines.append("One seed: the intervals speak of these very models, not yet of the methods.")
        if any("no time was left" in why or "time ran out" in why for why in self.dropped.values()):
            lines.append("The same command goes on with what there was no time for.")
        return lines + [f"Dropped: {method}: {why}" for method, why in self.dropped.items()]


def _name(one: tuple[str, str]) -> str:
    """The method of a student, `unimodal/<m>` of a teacher."""
    stage, run = one
    return f"{TEACHER}/{run.split('/')[0]}" if stage == "teachers" else run.split("/")[0]
