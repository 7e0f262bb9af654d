"""Which method for these data? All race on validation within a given time: `study=advise`."""

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd

from g2d_pipeline.cards import Clock, whole_folder
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
from g2d_pipeline.progress import duration
from g2d_pipeline.studies import racing, results
from g2d_pipeline.studies.cells import RunName, Site, Task, Workspace, open_workspace
from g2d_pipeline.studies.runner import open_pool
from g2d_pipeline.studies.settings import nested, run_params
from g2d_pipeline.studies.study import FOLDER, results_of, undefined_methods

logger = logging.getLogger(__name__)
RESERVE = 0.05  # share of the time for what comes after training


def run_advise(study: AdviseSettings, name: str, origins: Origins, site: Site) -> None:
    """Race, and print the advice. Raises ConfigError where the time does not suffice for one training of each
    teacher and of joint training, and for data of one modality."""
    clock = Clock.start()
    race = Race(study, name, origins, site)
    with race.pool:
        race.train_baselines()
        finalists = race.run_finals(race.run_rungs())
    folder, text = race.write(finalists, clock)
    click.echo(f"\n{text}\nStudy: {relative(folder / 'study.html', Path(site.project))}")


class Race:
    """A race in progress.

    `full`: the workspace of all methods with all epochs; `dropped`: method → when and why; `rows`: of
    rounds.csv, a row per method, round and seed; `seeds`: those whose baselines are trained; `fresh`: how
    many runs were trained before; `end`: when training has to end (`time.time`)."""

    def __init__(self, study: AdviseSettings, name: str, origins: Origins, site: Site) -> None:
        """Open the data set with all methods. Raises ConfigError."""
        self.study, self.name, self.began = study, name, time.time()
        self.end = self.began + study.minutes * 60 * (1 - RESERVE)
        self.costs, self.fresh = racing.Costs(), 0
        self.rows, self.seeds = list[dict[str, Any]](), list[int]()
        methods = study.methods
        if not methods:
            known = site.loader({"dataset": study.dataset}).methods
            methods = [*(m for m in study.first if m in known), *known]
        methods = [m for m in dict.fromkeys([*methods, racing.ENSEMBLE_METHOD, JOINT]) if m != TEACHER]
        params = merge(nested(study.options), run_params(study, study.dataset, methods))
        try:
            self.full = open_workspace(site, params)
        except ConfigError as error:
            text = str(error).removeprefix(f"{COMMAND_LINE}: ")
            raise ConfigError(f"{COMMAND_LINE}: study {name}: {text}") from error
        c = self.full.configuration
        if len(c.encoders) < 2:
            text = f"study {name}: {study.dataset} has one modality: there is nothing to balance"
            raise origins.mistake(("studies", name, "dataset"), f"{text}. Say method=unimodal,compare=")
        self.epochs, self.metric = int(c.dataset.training.epochs), HEADLINE_METRICS[c.dataset.task][0]
        self.pool = open_pool(site, name, origins, c)
        self.dropped: dict[str, str] = {}

    def train_baselines(self) -> None:
        """Make the features, and train what every comparison needs: the teachers, joint training and the
        ensemble of the first seed. Note the methods that are not defined for the data set.

        Raises ConfigError where the time does not suffice, estimated by a short joint training."""
        self.full.prepare()
        undefined = undefined_methods(self.full.configuration)
        self.dropped = {method: f"not defined here: {why}" for method, why in undefined.items()}
        seed = self.study.seeds[0]
        runs = self._baselines(seed)
        self._learn_costs(self.full, runs)
        if self.full.missing(runs):
            self._check_time()
        self._train(self.full, runs, f"baselines, seed {seed}", self.end)
        if self.full.missing(run for run in runs if _label(run) != racing.ENSEMBLE_METHOD):
            why = self.dropped.get(JOINT) or "teachers and joint training were not finished in time"
            kept = "what is trained is kept: the same command goes on, with more minutes"
            raise TrainingError(f"study {self.name}: {why}; {kept}")
        self.seeds.append(seed)

    def _check_time(self) -> None:
        """Raise ConfigError where the time does not suffice for one training of each teacher and of joint."""
        if JOINT not in self.costs.rates:
            workspace = self._shortened(1e-9)
            runs = self._runs(workspace, JOINT, self.study.seeds[0])
            self._train(workspace, runs, "to measure the time", None)
        if JOINT not in self.costs.rates:
            raise TrainingError(f"study {self.name}: {self.dropped.get(JOINT, 'joint training did not end')}")
        joint = self.costs.estimate(JOINT, self.epochs)
        teachers = len(self.full.configuration.dataset.modalities)
        needed = racing.makespan([joint, *[joint / teachers] * teachers], self.pool.workers)
        needed += time.time() - self.began
        if needed > (self.end - self.began) * (1 + RESERVE):
            least = math.ceil(1.3 * needed / 60 / (1 - RESERVE))
            raise ConfigError(
                f"{COMMAND_LINE}: minutes = {self.study.minutes:g} is too little for one training of each "
                f"teacher and of joint training, which take about {duration(needed)} here: say "
                f"minutes={least}, or fewer epochs"
            )

    def run_rungs(self) -> list[str]:
        """The methods that are left for the last round, the best first."""
        left = [
            m
            for m in self.full.configuration.methods
            if m not in (JOINT, racing.ENSEMBLE_METHOD) and m not in self.dropped
        ]
        for number, share in enumerate(self.study.rungs, start=1):
            if not left:
                break
            epochs = racing.short_epochs(self.full.configuration, share)
            title = f"round {number} ({epochs} of {self.epochs} epochs)"
            seconds = min(self.remaining - self.costs.estimate(JOINT, self.epochs), self.remaining / 2)
            left = self._round(self._shortened(share), left, epochs, title, seconds, self.study.keep) or left
        return left

    def run_finals(self, methods: Sequence[str]) -> list[str]:
        """Train these with all epochs, and the finalists with further seeds while the time allows, at last
        the best alone. Returns the finalists, the best on validation first."""
        title = f"last round ({self.epochs} epochs)"
        best = self._round(self.full, methods, self.epochs, title, self.remaining, 0.0)
        for seed in self.study.seeds[1:]:
            if len(best) > 1 and not self._fits(seed, best) and self._fits(seed, best[:1]):
                self.dropped |= dict.fromkeys(best[1:], f"seed {seed}: no time was left for it")
                best = best[:1]
            if not self._fits(seed, best):
                logger.info("%s: no time for seed %d", self.name, seed)
                break
            runs = self._runs_of_seed(seed, best)
            self._train(self.full, runs, f"seed {seed}", self.end)
            if self.full.missing(run for run in runs if run[1].split("/")[0] not in self.dropped):
                break
            self.seeds.append(seed)
        return best

    def _fits(self, seed: int, methods: Sequence[str]) -> bool:
        """Whether baselines and methods can be trained with this seed in the time that remains."""
        seconds = self._seconds(self.full, self._runs_of_seed(seed, methods), self.epochs)
        return racing.makespan(seconds, self.pool.workers) <= self.remaining

    def _round(
        self, workspace: Workspace, methods: Sequence[str], epochs: int, title: str, limit: float, keep: float
    ) -> list[str]:
        """Train methods with the first seed, as many as can end within `limit` seconds. Returns the share
        `keep` of them that goes on, the best first; the others are dropped."""
        seed, end = self.study.seeds[0], min(time.time() + limit, self.end)
        runs = {m: self._runs(workspace, m, seed) for m in methods}
        left, trained = list(methods), list[str]()
        while left:
            groups = [(m, self._seconds(workspace, runs[m], epochs)) for m in left]
            if any(seconds and m not in self.costs.rates for m, seconds in groups) and not trained:
                groups = groups[: 2 * self.pool.workers]  # whose times are better than a guess
            fit = racing.fitting(groups, self.pool.workers, end - time.time())
            self._train(workspace, [run for m in fit for run in runs[m]], title, end)
            trained, left = trained + fit, left[len(fit) :]
            if len(fit) < len(groups):
                break
        self.dropped |= dict.fromkeys(left, f"{title}: no time was left for it")
        scores: dict[str, racing.Score] = {}
        for m in trained:
            if m in self.dropped:
                continue
            if workspace.missing(runs[m]):
                self.dropped[m] = f"{title}: the time ran out before it had ended"
                continue
            predictions = [workspace.trained(*run).predictions for run in runs[m]]
            scores[m] = racing.validation_score(predictions, workspace.configuration.dataset.task)
            seconds = sum(float(workspace.card(*run).get("wall_seconds", 0.0)) for run in runs[m])
            row = {"round": title, "method": m, "epochs": epochs, "seed": seed, "seconds": seconds}
            self.rows.append(row | {"validation": abs(scores[m].value)})
        return self._drop_worst(scores, title, keep)

    def _drop_worst(self, scores: Mapping[str, racing.Score], title: str, keep: float) -> list[str]:
        """The methods that go on, the best first."""
        order = racing.survivors(scores, 1.0)
        best = racing.survivors(scores, keep, self.study.finalists)
        spec = metric_spec(self.metric)
        unit = "" if spec.unit == "target" else f" {spec.unit}"
        for m in (m for m in scores if m not in best):
            value = f"{spec.label} {format_value(self.metric, abs(scores[m].value))}{unit}"
            place = f"{order.index(m) + 1}. of {len(order)}"
            self.dropped[m] = f"{title}: {value} on validation, {place}; {len(best)} went on"
        return best

    @property
    def remaining(self) -> float:
        """Seconds until training has to end."""
        return self.end - time.time()

    def _shortened(self, share: float) -> Workspace:
        """Of all methods, also those that are dropped: an option (`tau`) may be one of theirs alone."""
        params = json.loads(self.full.params)
        return open_workspace(self.pool.site, racing.shortened(params, self.full.configuration, share))

    def _runs(self, workspace: Workspace, method: str, seed: int) -> list[RunName]:
        runs = workspace.distill.runs
        return [("distill", r) for r in workspace.students([method]) if runs[r].seed == seed]

    def _baselines(self, seed: int) -> list[RunName]:
        teachers = self.full.configuration.teachers().runs
        runs = [("teachers", name) for name, run in teachers.items() if run.seed == seed]
        methods = [m for m in (JOINT, racing.ENSEMBLE_METHOD) if m not in self.dropped]
        return runs + [run for m in methods for run in self._runs(self.full, m, seed)]

    def _runs_of_seed(self, seed: int, methods: Sequence[str]) -> list[RunName]:
        return self._baselines(seed) + [run for m in methods for run in self._runs(self.full, m, seed)]

    def _seconds(self, workspace: Workspace, runs: Iterable[RunName], epochs: int) -> list[float]:
        """The estimated seconds of each missing run."""
        return [self.costs.estimate(_label(run), epochs) for run in workspace.missing(runs)]

    def _learn_costs(self, workspace: Workspace, runs: Sequence[RunName]) -> None:
        epochs, missing = workspace.configuration.dataset.training.epochs, workspace.missing(runs)
        for run in (run for run in runs if run not in missing):
            self.costs.add(_label(run), epochs, float(workspace.card(*run).get("wall_seconds", 0.0)))

    def _train(self, workspace: Workspace, runs: Sequence[RunName], title: str, end: float | None) -> None:
        """Train what is missing, in this order, but students whose teachers are missing after them, until the
        time `end`; note times and failures."""
        missing = workspace.missing(runs)
        self.fresh += len(runs) - len(missing)
        absent = {run for stage, run in missing if stage == "teachers"}
        later = [run for run in missing if run[0] == "distill" and absent & {*workspace.teachers_of(run[1])}]
        waves = [[run for run in missing if run not in later], later]

        def failed(task: Task, reason: str) -> None:
            name = task.run.split("/")[0] if task.stage == "distill" else JOINT
            self.dropped[name] = f"{title}: {task.stage} {task.run} failed: {reason}"
            logger.error("%s: %s", self.name, self.dropped[name])

        if missing:
            tasks = ([Task(workspace.params, *run) for run in wave] for wave in waves)
            self.pool.train_waves(f"{self.name}: {title}", len(missing), tasks, failed, end)
        self._learn_costs(workspace, runs)

    def write(self, finalists: Sequence[str], clock: Clock) -> tuple[Path, str]:
        """The folder of the results, and the text for the terminal."""
        c, study = self.full.configuration, self.study
        methods = [m for m in (JOINT, racing.ENSEMBLE_METHOD, *finalists) if m not in self.dropped]
        students = [r for r in self.full.students(methods) if self.full.distill.runs[r].seed in self.seeds]
        teachers = [r for r, run in c.teachers().runs.items() if run.seed in self.seeds]
        runs, _, seconds = results_of(self.full, teachers, students, {})
        metrics = collect_metrics(runs, c.run.dataset, c.source)
        winner, teacher = self._winners(metrics, methods)
        finals = [run for run in runs if run.is_teacher or run.method in (JOINT, winner)]
        compared = comparisons(finals, resample([*finals, *ensemble_runs(finals)]))
        advice = racing.advise(compared, winner, teacher, self.metric, study.margin)
        frame = results.cells_frame([results.Part(study.dataset, "", c.source, metrics, [], seconds)])
        minutes, command = (time.time() - self.began) / 60, self._command(advice)
        notes = [*advice.sentences, *val_unlike_test(ordered_runs(runs)), f"What to run: {command}"]
        notes += self._account(minutes)
        title = f"{'SAMPLE · ' * (c.source == 'sample')}{self.name} · {study.dataset}"
        about: Tree = {"study": self.name, "settings": study.model_dump(mode="json")}
        about |= {"recommended": advice.method, "modality": advice.modality, "winner": winner}
        about |= {"command": command, "minutes": round(minutes, 2), "seeds": self.seeds}
        about |= {"dropped": self.dropped, "rounds": self.rows}
        about["comparisons"] = json.loads(compared.to_json(orient="records"))
        made = [self.full.plan.fingerprint("distill", name) for name in students]
        card = {"stage": "study", "study": self.name, "inputs": made, "dropped": self.dropped}
        card["fingerprint"] = fingerprint(card)
        folder = c.project / FOLDER / f"{self.name}-{study.dataset}-{card['fingerprint']}"
        with whole_folder(folder, card, clock) as partial:
            text = results.write_results(partial, title, notes, frame, results.summary_frame(frame), about)
            pd.DataFrame(self.rows).to_csv(partial / "rounds.csv", index=False)
        return folder, text

    def _winners(self, metrics: pd.DataFrame, methods: Sequence[str]) -> tuple[str, str]:
        """The best method and the modality of the best teacher, by their means on validation."""
        sign = 1 if metric_spec(self.metric).higher_is_better else -1
        val = metrics[(metrics["split"] == "val") & (metrics["metric"] == self.metric)]
        by_method = val[val["part"] == MULTI].groupby("method")["value"].mean() * sign
        teachers = val[val["method"] == TEACHER].groupby("modality", sort=False)["value"].mean() * sign
        winner = max(methods, key=lambda m: by_method.get(m, -math.inf))  # equals: the plainer one
        return winner, str(teachers.idxmax())

    def _command(self, advice: racing.Advice) -> str:
        pairs: Tree = {"dataset": self.study.dataset, "method": advice.method}
        pairs |= {"compare": "" if advice.method in (TEACHER, JOINT) else JOINT, "seeds": self.seeds}
        pairs |= {".".join(path): value for path, value in leaves(self.study.options)}
        return f"kedro run --params {','.join(f'{key}={as_text(value)}' for key, value in pairs.items())}"

    def _account(self, minutes: float) -> list[str]:
        lines = [
            f"{minutes:.1f} of {self.study.minutes:g} minutes; seeds {as_text(self.seeds)}; "
            f"{self.fresh} runs were there already."
        ]
        if len(self.seeds) == 1:
            lines.append("One seed: the intervals speak of these very models, not yet of the methods.")
        if any("no time was left" in why or "time ran out" in why for why in self.dropped.values()):
            lines.append("The same command goes on with what there was no time for.")
        return lines + [f"Dropped: {method}: {why}" for method, why in self.dropped.items()]


def _label(run: RunName) -> str:
    """The method of a student, `unimodal/<m>` of a teacher."""
    name = run[1].split("/")[0]
    return f"{TEACHER}/{name}" if run[0] == "teachers" else name
