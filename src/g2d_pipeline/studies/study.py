"""A study from its file to its table: `kedro run --params study=<name>`."""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from g2d_pipeline.artefacts import FailedRun, TrainedFolder
from g2d_pipeline.cards import Clock, read_card, whole_folder
from g2d_pipeline.catalog.parameters import parse_yaml
from g2d_pipeline.config.studies import AdviseSettings, StudySettings
from g2d_pipeline.configuration import Configuration
from g2d_pipeline.errors import ConfigError, G2DError, InterruptedRun, TrainingError
from g2d_pipeline.explain import COMMAND_LINE, Origins
from g2d_pipeline.files import fingerprint, locked, relative
from g2d_pipeline.overrides import Tree
from g2d_pipeline.progress import EpochProgress, track_epochs
from g2d_pipeline.stages import PendingInputError
from g2d_pipeline.studies.cells import Outcome, Site, Task, Workspace, forget_workspaces, open_workspace
from g2d_pipeline.studies.runner import Trainings, open_pool
from g2d_pipeline.studies.settings import Point, points, read_study

logger = logging.getLogger(__name__)
FOLDER = Path("data/08_reporting/studies")
Failures = dict[tuple[str, str], str]


@dataclass
class Cell:
    """A point of the grid at work. `failed`: (stage, run) → why."""

    point: Point
    workspace: Workspace
    teachers_shown: bool
    failed: Failures = field(default_factory=dict)

    @property
    def students(self) -> list[str]:
        return self.workspace.students(self.point.methods)

    @property
    def teachers(self) -> list[str]:
        """The runs of teachers that are shown, or that a student needs."""
        w = self.workspace
        needed = {name for run in self.students for name in w.teachers_of(run)}
        return [run for run in w.plan.runs("teachers") if self.teachers_shown or run in needed]

    def runs(self) -> list[tuple[str, str]]:
        return [("teachers", run) for run in self.teachers] + [("distill", run) for run in self.students]

    def named(self, runs: Failures) -> Failures:
        """Runs of this cell, told from those of others; teachers are the data set's."""
        where = {"distill": f"{self.point.dataset} {self.point.label}", "teachers": f"{self.point.dataset} "}
        return {(where[stage], f"{stage} {run}"): reason for (stage, run), reason in runs.items()}

    def missing(self) -> list[tuple[str, str]]:
        """What is neither fresh nor failed."""
        self.workspace.plan.refresh()
        return [
            one for one in self.runs() if one not in self.failed and not self.workspace.plan.is_fresh(*one)
        ]

    def fail(self, reason: str, method: str | None = None) -> None:
        """Note that nothing of this point, or of one of its methods, can be made."""
        runs = self.runs() if method is None else [("distill", r) for r in self.workspace.students([method])]
        self.failed |= {one: reason for one in runs if one not in self.failed}

    def fail_without_teachers(self) -> None:
        """Note that students fail whose teachers failed."""
        for run in self.students:
            for teacher in self.workspace.teachers_of(run):
                if (reason := self.failed.get(("teachers", teacher))) and ("distill", run) not in self.failed:
                    modality = teacher.partition("/")[0]
                    words = f"it needs the teacher of {modality}, which failed: {reason}"
                    self.failed["distill", run] = words


def run_study(site: Site, name: str, changes: Tree) -> None:
    """Make what is missing of a study, and show its table.

    Raises ConfigError and DataError before any work for what is wrong with the study, and TrainingError at
    the end where cells failed: then everything else is made, and in the table."""
    forget_workspaces()
    study, origins = read_study(name, site.loader({}).studies(), parse_yaml, changes)
    site = replace(site, threads=study.threads)
    if isinstance(study, AdviseSettings):
        from g2d_pipeline.studies.advise import run_advise

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
    failed = {one: reason for cell in cells for one, reason in cell.named(cell.failed).items()}
    if failed:
        total = len({one for cell in cells for one in cell.named(dict.fromkeys(cell.runs(), ""))})
        reason = next(iter(failed.values())).rstrip(".")
        raise TrainingError(
            f"study {name}: {len(failed)} of {total} runs failed, the first one: {reason}. The others are "
            "whole; the same command tries the failed ones again."
        )


def open_cells(site: Site, name: str, study: StudySettings, origins: Origins) -> list[Cell]:
    """A cell a point of the grid. Raises ConfigError and DataError, with the point."""
    cells = []
    for point in points(study):
        try:
            workspace = open_workspace(site, point.params)
        except G2DError as error:
            text = str(error).removeprefix(f"{COMMAND_LINE}: ")
            unknown = re.match(r"unknown (method|key) '([^']+)'", text)
            key = "datasets" if not unknown else "methods" if unknown[1] == "method" else "options"
            where = origins.find(("studies", name, key, unknown[2] if unknown else ""))
            raise type(error)(f"{where}: study {name}, {point}: {text}") from error
        cells.append(Cell(point, workspace, "unimodal" in point.methods))
    return cells


def _check(name: str, study: StudySettings, origins: Origins, cells: Sequence[Cell]) -> None:
    """Raise ConfigError for metrics that do not fit; note methods that are not defined where they shall be
    used, which is asked only where there is work."""
    from g2d_pipeline.studies import results

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
    from g2d_pipeline.resolve import check_methods

    reasons = {}
    for method, settings in c.methods.items():
        try:
            check_methods(replace(c, methods={method: settings}))
        except ConfigError as error:
            reasons[method] = str(error).partition(f"method = {method!r}: ")[2] or str(error)
    return reasons


def make_cells(cells: Sequence[Cell], pool: Trainings, title: str) -> None:
    """Make what is missing: features here, one data set after the other; then teachers, and students that
    need none; then the other students. What fails is noted in its cells."""
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
    total = len(_to_make(cells))
    if not total:
        return
    logger.info("%s: %d runs to make, in %d processes", title, total, pool.workers)
    with track_epochs(title, 0, total) as line:
        line.start(1)
        _make(_to_make(cells, with_teachers=False), pool, line)
        for cell in cells:
            cell.fail_without_teachers()
        _make(_to_make(cells), pool, line)


Shared = dict[Any, list[tuple[Cell, str, str]]]
"""What is to be made, by the folder that it is to lie in (or anything else, where that is not known yet) →
the cells and runs that it is of."""


def _to_make(cells: Sequence[Cell], with_teachers: bool = True) -> Shared:
    """What is missing; not `with_teachers`: teachers, and students that need none."""
    shared: Shared = {}
    for cell in cells:
        w = cell.workspace
        for stage, run in cell.missing():
            if with_teachers or stage == "teachers" or not w.teachers_of(run):
                try:
                    key: Any = w.plan.folder(stage, run)
                except PendingInputError:
                    key = id(cell), stage, run
                shared.setdefault(key, []).append((cell, stage, run))
    return shared


def _make(shared: Shared, pool: Trainings, line: EpochProgress) -> None:
    owners = {Task(own[0][0].workspace.params, *own[0][1:]): own for own in shared.values()}

    def done(task: Task, outcome: Outcome) -> None:
        line.advance(0, dict)
        if outcome.status == "failed":
            for cell, stage, run in owners[task]:
                cell.failed[stage, run] = outcome.reason
            point = owners[task][0][0].point
            logger.error("%s %s %s failed: %s", point, task.stage, task.run, outcome.reason)

    pool.train(list(owners), done)


def _artefact(
    project: Path, name: str, study: StudySettings, cells: Sequence[Cell]
) -> tuple[Path, dict[str, Any]]:
    """The folder of the results, and its card: they follow from the settings, the runs and the code."""
    made = []
    for cell in cells:
        cell.workspace.plan.refresh()
        for one in cell.runs():
            state = cell.failed.get(one) or cell.workspace.plan.fingerprint(*one)
            made.append([cell.point.dataset, cell.point.label, *one, state])
    about = study.model_dump(mode="json", exclude={"compute", "threads"})
    graph = cells[0].workspace.plan.graph
    code = graph.fingerprint(["studies.study.run_study"])
    graph.save()
    card = {"stage": "study", "study": name, "parameters": about, "inputs": made, "code": code}
    card["fingerprint"] = fingerprint(card)
    return project / FOLDER / f"{name}-{card['fingerprint']}", card


def _write(folder: Path, name: str, study: StudySettings, cells: Sequence[Cell]) -> None:
    from g2d_pipeline.studies import results

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
    for part in parts if study.published else []:
        if part.void:
            words = "; ".join(f"{word} ({details})" for word, details in part.void.items())
            notes.append(f"{part.dataset}: the comparison with what is published is void: {words}.")
    notes = list(dict.fromkeys(notes))
    results.write_results(folder, title, notes, frame, summary, about)


def _made(cell: Cell, stage: str, run: str) -> dict[str, Any]:
    folder = cell.workspace.plan.require(stage, run)
    card = read_card(folder) or {}
    project = cell.workspace.configuration.project
    return {"folder": str(relative(folder, project)), "seconds": card.get("wall_seconds")}


def collect(cells: Sequence[Cell], compared: bool = False) -> Iterable[Any]:
    """The results of each cell, as `results.Part`s; teachers that all points of a data set share, once.
    `compared`: with published numbers."""
    import pandas as pd

    from g2d_pipeline.evaluation.metrics import METRIC_COLUMNS, collect_metrics
    from g2d_pipeline.studies.results import Part, departures, published_protocol

    sets: dict[str, set[tuple[str, ...]]] = {}  # of teachers, by data set
    for cell in cells:
        sets.setdefault(cell.point.dataset, set()).add(_teacher_set(cell))
    shown = set()
    for cell in cells:
        c, dataset = cell.workspace.configuration, cell.point.dataset
        protocol = published_protocol(dataset) if compared else {}
        void = departures(c.source, c.describe()["dataset_settings"], protocol)
        shared = len(sets[dataset]) == 1
        groups = [("distill", cell.students, cell.point.label)]
        if cell.teachers_shown and not (shared and dataset in shown):
            groups.insert(0, ("teachers", cell.teachers, "" if shared else cell.point.label))
            shown.add(dataset)
        for stage, names, label in groups:
            runs, failures, seconds = results_of(cell, stage, names)
            metrics = pd.DataFrame(columns=list(METRIC_COLUMNS))
            if runs:
                metrics = collect_metrics(runs, c.run.dataset, c.source)
            yield Part(dataset, label, c.source, metrics, failures, seconds, void)


def _teacher_set(cell: Cell) -> tuple[str, ...]:
    """Where the teachers of a cell lie, or why they failed."""
    plan = cell.workspace.plan
    return tuple(
        cell.failed.get(("teachers", run)) or str(plan.folder("teachers", run)) for run in cell.teachers
    )


def results_of(cell: Cell, stage: str, names: Sequence[str]) -> tuple[list[Any], list[Any], dict[Any, float]]:
    """(runs, failures, seconds of training by run) of teachers or students."""
    from g2d_pipeline.pipelines.evaluate import read_runs, samples_of

    w, samples = cell.workspace, {}
    models = {run: _model(cell, stage, run) for run in names}
    made = [model for model in models.values() if isinstance(model, TrainedFolder)]
    if made:
        manifests, stores = w.datasets["ingest"].load(), w.datasets["featurize"].load()
        tables = {split: samples_of(store, manifests[split]) for split, store in stores.items()}
        samples = {
            end: (tables[split], stores[split]) for end, (_, split, _) in w.configuration.repeats.items()
        }
    cases, failures = read_runs(*(({}, models) if stage == "distill" else (models, {})), samples)
    seconds = {}
    for run, model, _ in cases:
        card = read_card(model.path) or {}
        seconds[run.method, run.modality, run.fold, run.seed] = float(card.get("wall_seconds", 0.0))
    return [run for run, *_ in cases], failures, seconds


def _model(cell: Cell, stage: str, run: str) -> TrainedFolder | FailedRun:
    w = cell.workspace
    settings: Any = w.distill if stage == "distill" else w.configuration.teachers()
    reason = cell.failed.get((stage, run))
    return FailedRun(settings.runs[run].seed, reason) if reason else w.trained(stage, run)
