"""A study from its file to its table: `kedro run --params study=<name>`."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import pandas as pd

from g2d_pipeline.artefacts import FailedRun, Models, TrainedFolder
from g2d_pipeline.cards import Clock, read_card, whole_folder
from g2d_pipeline.catalog.parameters import parse_yaml
from g2d_pipeline.config.studies import AdviseSettings, StudySettings
from g2d_pipeline.configuration import Configuration
from g2d_pipeline.errors import ConfigError, G2DError, InterruptedRun, TrainingError
from g2d_pipeline.evaluation.metrics import METRIC_COLUMNS, collect_metrics
from g2d_pipeline.evaluation.records import Failure, Run
from g2d_pipeline.explain import COMMAND_LINE, Origins
from g2d_pipeline.files import fingerprint, locked, relative
from g2d_pipeline.overrides import Tree
from g2d_pipeline.pipelines.evaluate import read_runs, samples_of
from g2d_pipeline.resolve import check_methods
from g2d_pipeline.stages import PendingInputError
from g2d_pipeline.studies import results
from g2d_pipeline.studies.cells import RunName, Site, Task, Workspace, forget_workspaces, open_workspace
from g2d_pipeline.studies.runner import Trainings, open_pool
from g2d_pipeline.studies.settings import Point, points, read_study

logger = logging.getLogger(__name__)
FOLDER = Path("data/08_reporting/studies")


@dataclass
class Cell:
    """A point of the grid with its workspace. `failed`: run → why."""

    point: Point
    workspace: Workspace
    failed: dict[RunName, str] = field(default_factory=dict)

    @property
    def teachers_shown(self) -> bool:
        return "unimodal" in self.point.methods

    @property
    def students(self) -> list[str]:
        return self.workspace.students(self.point.methods)

    @property
    def teachers(self) -> list[str]:
        """The runs of teachers that are shown, or that a student needs."""
        w = self.workspace
        needed = {name for run in self.students for name in w.teachers_of(run)}
        return [run for run in w.plan.runs("teachers") if self.teachers_shown or run in needed]

    def runs(self) -> list[RunName]:
        return [("teachers", run) for run in self.teachers] + [("distill", run) for run in self.students]

    def label(self, stage: str, run: str) -> tuple[str, ...]:
        """A run's name among those of all cells; teachers belong to their data set."""
        return self.point.dataset, self.point.label if stage == "distill" else "", stage, run

    def missing(self) -> list[RunName]:
        """The runs that are neither fresh nor failed."""
        return [run for run in self.workspace.missing(self.runs()) if run not in self.failed]

    def fail(self, reason: str, method: str | None = None) -> None:
        """Note that no run of this cell, or of one of its methods, can be made."""
        runs = self.runs() if method is None else [("distill", r) for r in self.workspace.students([method])]
        self.failed |= {run: reason for run in runs if run not in self.failed}

    def fail_without_teachers(self) -> None:
        """Note that students fail whose teachers failed."""
        for run in self.students:
            for teacher in self.workspace.teachers_of(run):
                if reason := self.failed.get(("teachers", teacher)):
                    modality = teacher.partition("/")[0]
                    text = f"it needs the teacher of {modality}, which failed: {reason}"
                    self.failed.setdefault(("distill", run), text)


def run_study(site: Site, name: str, changes: Tree) -> None:
    """Make what is missing of a study, and show its table.

    Raises ConfigError and DataError before any work for what is wrong with the study, and TrainingError at
    the end where cells failed: then everything else is made, and in the table."""
    forget_workspaces()
    study, origins = read_study(name, site.loader({}).studies(), parse_yaml, changes)
    site = replace(site, threads=study.threads)
    if isinstance(study, AdviseSettings):
        from g2d_pipeline.studies.advise import run_advise  # which imports this module

        run_advise(study, name, origins, site)
    else:
        _run_grid(study, name, origins, site)


def _run_grid(study: StudySettings, name: str, origins: Origins, site: Site) -> None:
    clock, project = Clock.start(), Path(site.project)
    cells = open_cells(site, name, study, origins)
    _check(name, study, origins, cells)
    if any(cell.missing() for cell in cells):
        with open_pool(site, name, origins, cells[0].workspace.configuration) as pool:
            make_cells(cells, pool, f"study {name}")
    else:
        logger.info("study %s: everything is fresh", name)
    folder, card = _artefact(project, name, study, cells)
    with locked(folder, wait=True):
        if (read_card(folder) or {}).get("fingerprint") != card["fingerprint"]:
            with whole_folder(folder, card, clock) as partial:
                _write(partial, name, study, cells)
    text = (folder / "table.txt").read_text(encoding="utf-8")
    click.echo(f"\n{text}\nStudy: {relative(folder / 'study.html', project)}")
    if failed := {cell.label(*run): reason for cell in cells for run, reason in cell.failed.items()}:
        total = len({cell.label(*run) for cell in cells for run in cell.runs()})
        reason = next(iter(failed.values())).rstrip(".")
        raise TrainingError(
            f"study {name}: {len(failed)} of {total} runs failed, the first one: {reason}. The others are "
            "whole; the same command tries the failed ones again."
        )


def open_cells(site: Site, name: str, study: StudySettings, origins: Origins) -> list[Cell]:
    """A cell for each point of the grid. Raises ConfigError and DataError, with the point."""
    cells = []
    for point in points(study):
        try:
            cells.append(Cell(point, open_workspace(site, point.params)))
        except G2DError as error:
            text = str(error).removeprefix(f"{COMMAND_LINE}: ")
            unknown = re.match(r"unknown (method|key) '([^']+)'", text)
            key = "datasets" if not unknown else "methods" if unknown[1] == "method" else "options"
            file = origins.find(("studies", name, key, unknown[2] if unknown else ""))
            raise type(error)(f"{file}: study {name}, {point}: {text}") from error
    return cells


def _check(name: str, study: StudySettings, origins: Origins, cells: Sequence[Cell]) -> None:
    """Raise ConfigError for metrics that do not fit; note methods that are not defined for their data, which
    is checked only for cells with missing runs."""
    tasks = {c.point.dataset: c.workspace.configuration.dataset.task for c in cells}
    key = "metrics"
    try:
        results.check_metrics(study.metrics, tasks)
        if study.published:
            key = "published"
            results.published_rows(study.published)
    except ConfigError as error:
        raise origins.mistake(("studies", name, key), str(error)) from None
    for cell in cells:
        undefined = undefined_methods(cell.workspace.configuration) if cell.missing() else {}
        for method, why in undefined.items():
            cell.fail(f"not defined here: {why}", method)


def undefined_methods(c: Configuration) -> dict[str, str]:
    """Method → why it is not defined for the task, modalities, fusion or encoders."""
    reasons = {}
    for method, settings in c.methods.items():
        try:
            check_methods(replace(c, methods={method: settings}))
        except ConfigError as error:
            reasons[method] = str(error).partition(f"method = {method!r}: ")[2] or str(error)
    return reasons


def make_cells(cells: Sequence[Cell], pool: Trainings, title: str) -> None:
    """Make what is missing: features in this process, one data set after the other; then teachers, and
    students that need none; then the other students. Failures are noted in the cells."""
    for cell in cells:
        if not cell.missing():
            continue
        try:
            cell.workspace.prepare()
        except InterruptedRun:
            raise
        except (G2DError, OSError) as error:
            cell.fail(" ".join(str(error).split()))
            logger.error("%s: %s", cell.point.dataset, error)
    tasks = _tasks(cells)
    if not tasks:
        return
    logger.info("%s: %d runs to make, in %d processes", title, len(tasks), pool.workers)

    def waves() -> Iterator[list[Task]]:
        tasks.update(first := _tasks(cells, with_teachers=False))
        yield list(first)
        for cell in cells:
            cell.fail_without_teachers()
        tasks.update(last := _tasks(cells))
        yield list(last)

    def failed(task: Task, reason: str) -> None:
        for cell in tasks[task]:
            cell.failed[task.stage, task.run] = reason
        logger.error("%s %s %s failed: %s", tasks[task][0].point, task.stage, task.run, reason)

    pool.train_waves(title, len(tasks), waves(), failed)


def _tasks(cells: Sequence[Cell], with_teachers: bool = True) -> dict[Task, list[Cell]]:
    """A task for each missing artefact → the cells that share it. Without `with_teachers`: teachers, and
    students that need none."""
    shared: dict[Any, tuple[Task, list[Cell]]] = {}  # by folder, where that is known already
    for cell in cells:
        w = cell.workspace
        for stage, run in cell.missing():
            if with_teachers or stage == "teachers" or not w.teachers_of(run):
                try:
                    key: Any = w.plan.folder(stage, run)
                except PendingInputError:
                    key = id(cell), stage, run
                shared.setdefault(key, (Task(w.params, stage, run), []))[1].append(cell)
    return dict(shared.values())


def _artefact(
    project: Path, name: str, study: StudySettings, cells: Sequence[Cell]
) -> tuple[Path, dict[str, Any]]:
    """The folder of the results, and its card: they follow from the settings, the runs and the code."""
    made = []
    for cell in cells:
        cell.workspace.plan.refresh()
        for run in cell.runs():
            state = cell.failed.get(run) or cell.workspace.plan.fingerprint(*run)
            made.append([cell.point.dataset, cell.point.label, *run, state])
    about = study.model_dump(mode="json", exclude={"compute", "threads"})
    graph = cells[0].workspace.plan.graph
    code = graph.fingerprint(["studies.study.run_study"])
    graph.save()
    card = {"stage": "study", "study": name, "parameters": about, "inputs": made, "code": code}
    card["fingerprint"] = fingerprint(card)
    return project / FOLDER / f"{name}-{card['fingerprint']}", card


def _write(folder: Path, name: str, study: StudySettings, cells: Sequence[Cell]) -> None:
    parts = list(collect(cells, compared=study.published is not None))
    frame = results.cells_frame(parts)
    published = results.published_rows(study.published) if study.published else None
    summary = results.summary_frame(frame, study.metrics, published)
    sample = "SAMPLE" if any(part.source == "sample" for part in parts) else ""
    title = " · ".join(filter(None, [sample, name, study.title, "test"]))
    about: dict[str, Any] = {"study": name, "settings": study.model_dump(mode="json")}
    about["cells"] = [
        {"dataset": c.point.dataset, "options": c.point.options, "stage": stage, "run": run}
        | ({"failed": c.failed[stage, run]} if (stage, run) in c.failed else _made(c, stage, run))
        for c in cells
        for stage, run in c.runs()
    ]
    notes = [f"{c.point}: {note}" for c in cells for note in c.workspace.configuration.notes]
    for part in parts:
        if part.void and study.published:
            reasons = "; ".join(f"{word} ({details})" for word, details in part.void.items())
            notes.append(f"{part.dataset}: the comparison with what is published is void: {reasons}.")
    results.write_results(folder, title, list(dict.fromkeys(notes)), frame, summary, about)


def _made(cell: Cell, stage: str, run: str) -> dict[str, Any]:
    folder = cell.workspace.plan.require(stage, run)
    seconds = cell.workspace.card(stage, run).get("wall_seconds")
    return {"folder": str(relative(folder, cell.workspace.configuration.project)), "seconds": seconds}


def collect(cells: Sequence[Cell], compared: bool = False) -> Iterator[results.Part]:
    """The results of each cell; teachers that all points of a data set share, once. `compared`: with
    published numbers."""
    teacher_sets: dict[str, set[tuple[str, ...]]] = {}  # by data set
    for cell in cells:
        plan = cell.workspace.plan
        states = (
            cell.failed.get(("teachers", run)) or str(plan.folder("teachers", run)) for run in cell.teachers
        )
        teacher_sets.setdefault(cell.point.dataset, set()).add(tuple(states))
    shown = set()
    for cell in cells:
        c, dataset = cell.workspace.configuration, cell.point.dataset
        protocol = results.published_protocol(dataset) if compared else {}
        void = results.departures(c.source, c.describe()["dataset_settings"], protocol)
        shared = len(teacher_sets[dataset]) == 1
        groups: list[tuple[str, list[str], list[str]]] = [(cell.point.label, [], cell.students)]
        if cell.teachers_shown and not (shared and dataset in shown):
            groups.insert(0, ("" if shared else cell.point.label, cell.teachers, []))
            shown.add(dataset)
        for label, teachers, students in groups:
            runs, failures, seconds = results_of(cell.workspace, teachers, students, cell.failed)
            metrics = pd.DataFrame(columns=list(METRIC_COLUMNS))
            if runs:
                metrics = collect_metrics(runs, c.run.dataset, c.source)
            yield results.Part(dataset, label, c.source, metrics, failures, seconds, void)


def results_of(
    w: Workspace, teachers: Sequence[str], students: Sequence[str], failed: Mapping[RunName, str]
) -> tuple[list[Run], list[Failure], dict[Any, float]]:
    """(runs, failures, run's label → seconds of its training) of teachers and students. `failed`: run → why
    it has no model."""

    def models(stage: str, runs: Mapping[str, Any], names: Sequence[str]) -> Models:
        reasons = {name: failed.get((stage, name)) for name in names}
        return {n: FailedRun(runs[n].seed, why) if why else w.trained(stage, n) for n, why in reasons.items()}

    sets = (
        models("teachers", w.configuration.teachers().runs, teachers),
        models("distill", w.distill.runs, students),
    )
    samples = {}
    if any(isinstance(model, TrainedFolder) for made in sets for model in made.values()):
        manifests, stores = w.datasets["ingest"].load(), w.datasets["featurize"].load()
        tables = {split: samples_of(store, manifests[split]) for split, store in stores.items()}
        samples = {
            end: (tables[split], stores[split]) for end, (_, split, _) in w.configuration.repeats.items()
        }
    cases, failures = read_runs(*sets, samples)
    seconds = {}
    for run, model, _ in cases:
        card = read_card(model.path) or {}
        seconds[run.method, run.modality, run.fold, run.seed] = float(card.get("wall_seconds", 0.0))
    return [run for run, *_ in cases], failures, seconds
