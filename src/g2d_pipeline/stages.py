"""The stage card that every artefact of a run must have, its folder, and whether it is fresh.

A card's `fingerprint` is a hash of the contents of the artefacts that it is made from, the parameters that
its stage reads and the code that its stage uses (see `code.py`). Since inputs count by content, a stage that
ran again and made the same leaves later stages fresh; since contents are known once they are made, cards are
computed on demand."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from g2d_pipeline.artefacts import FailedRun
from g2d_pipeline.cards import CARD, is_fresh, read_card, require_fresh
from g2d_pipeline.code import CodeGraph, external_fingerprint
from g2d_pipeline.config import LAYOUT_GROUP, EvaluateSettings, StudentRun, TeacherRun
from g2d_pipeline.configuration import Configuration
from g2d_pipeline.errors import DataError
from g2d_pipeline.files import content_hash, evaluation_set_file, fingerprint
from g2d_pipeline.mirror import Mirror
from g2d_pipeline.overrides import Tree
from g2d_pipeline.remote import fetch_folder
from g2d_pipeline.sources.layout import MODULES

PACKAGE = Path(__file__).parent
STAGES = ("ingest", "featurize", "data_report", "teachers", "distill", "evaluate")
# What a stage runs, what writes its artefact and what it reads as objects, beside plug-ins and settings.
STORE, TRAINED = "features.store.FeatureStore", ("artefacts.TrainedFolder", "artefacts.write_trained")
ENTRIES = {
    "ingest": ("pipelines.ingest.ingest_raw", "sources.manifest.write_manifest"),
    "featurize": ("pipelines.featurize.featurize_modalities",),
    "data_report": ("pipelines.data_report.make_data_report", STORE),
    "teachers": ("pipelines.teachers.train_teachers", STORE, *TRAINED, "methods.unimodal"),
    "distill": ("pipelines.distill.train_students", STORE, *TRAINED),
    "evaluate": ("pipelines.evaluate.evaluate_runs", STORE, *TRAINED),
}
# The names of a stage's artefacts among the inputs of another.
ARTEFACTS = {"ingest": "manifest", "featurize": "features", "data_report": "data_report"}
ARTEFACTS |= {"teachers": "teachers", "distill": "students"}
OPENED_BY_HAND = ("data_report", "evaluate")  # fetched before a program asks for them
RUN_OPTIONS = {"options"}  # the field of a stage's settings that fixes no artefact


class PendingInputError(DataError):
    """An artefact depends on one that has not been made yet, so that its card is unknown."""


@dataclass
class Plan:
    """The artefacts of a run, by stage and run ("" where a stage makes one artefact; those of ingest and
    featurize are the splits).

    `raw`: the content hash of the raw data. `folders`: stage → path of its artefacts in the catalog, with
    `{run}` and `{fingerprint}`. `graph`: the code of the package. `failures`, of this process: (stage, run) →
    why its training failed; what is made from it counts the reason as its content. `mirror`: of artefacts
    that machines share."""

    configuration: Configuration
    raw: str
    graph: CodeGraph
    folders: dict[str, str] = field(default_factory=dict)
    failures: dict[tuple[str, str], FailedRun] = field(default_factory=dict)
    mirror: Mirror | None = None
    _cards: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    _code: dict[tuple[str, ...], str] = field(default_factory=dict)

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # Kedro copies catalog entries; a run has one plan

    def runs(self, stage: str) -> list[str]:
        """The names of the stage's runs, in their order."""
        return list(self._settings[stage])

    def fingerprint(self, stage: str, run: str = "") -> str:
        return str(self.card(stage, run)["fingerprint"])

    def folder(self, stage: str, run: str = "") -> Path:
        """The folder of the artefact, made or not; one that another machine has made appears there. Raises
        PendingInputError as `card` does."""
        folder = self._path(stage, run, self.fingerprint(stage, run))
        if self.mirror is not None and self.mirror.find(folder) and stage in OPENED_BY_HAND:
            fetch_folder(folder)
        return folder

    def _path(self, stage: str, run: str, fingerprint: str) -> Path:
        return Path(self.folders[stage].replace("{run}", run).replace("{fingerprint}", fingerprint))

    def others(self, stage: str, run: str = "") -> list[Path]:
        """The whole artefacts of other fingerprints, the newest first."""
        return [folder for folder in self._made(stage, run) if folder != self.folder(stage, run)]

    def _made(self, stage: str, run: str) -> list[Path]:
        pattern = self._path(stage, run, "*")
        whole = [f for f in pattern.parent.glob(pattern.name) if not f.suffix and read_card(f) is not None]
        return sorted(whole, key=lambda f: (-(f / CARD).stat().st_mtime_ns, f.name))

    def is_fresh(self, stage: str, run: str = "") -> bool:
        """Whether the artefact is there, whole, and made from the right inputs, parameters and code."""
        try:
            return is_fresh(self.folder(stage, run), self.fingerprint(stage, run))
        except PendingInputError:
            return False

    def refresh(self) -> None:
        """Forget all cards: an artefact was made, and with it perhaps another content."""
        self._cards.clear()
        if self.mirror is not None:
            self.mirror.forget()

    def card(self, stage: str, run: str = "") -> dict[str, Any]:
        """The stage card that the artefact must have; with `code=ignore`, one that other code made from the
        same inputs and parameters, if there is one. Raises PendingInputError for inputs not made yet."""
        if (stage, run) not in self._cards:
            c, settings = self.configuration, self._settings[stage][run]
            parameters = settings.model_dump(mode="json", exclude=RUN_OPTIONS)
            content = {"stage": stage, "inputs": self._inputs(stage, run), "code": self._code_of(stage, run)}
            content["parameters"] = {} if stage == "data_report" else parameters
            about: Tree = {"dataset": c.run.dataset, "source": c.source, "device": c.run.device}
            about |= {"seed": getattr(settings, "seed", None), "fingerprint": fingerprint(content)}
            card = content | about
            if c.run.code == "ignore":
                card = self._any_code(card, run) or card | {"code_ignored": True}
            self._cards[stage, run] = card
        return self._cards[stage, run]

    def _any_code(self, card: dict[str, Any], run: str) -> dict[str, Any] | None:
        """The card of the newest artefact that differs in its code alone, if the very one is not there."""
        if is_fresh(self._path(card["stage"], run, card["fingerprint"]), card["fingerprint"]):
            return None
        others = [read_card(folder) or {} for folder in self._made(card["stage"], run)]
        same = ("stage", "inputs", "parameters")
        return next((c for c in others if all(c.get(key) == card[key] for key in same)), None)

    def require(self, stage: str, run: str = "") -> Path:
        """The artefact's folder. Raises DataError unless it is there and fresh: a stale one is never read."""
        folder, expected = self.folder(stage, run), self.fingerprint(stage, run)
        require_fresh(folder, expected, f"{stage} {run}".rstrip())
        if self.mirror is not None:  # arrays of a store are fetched when they are read
            fetch_folder(folder, lambda name: stage == "featurize" and name.endswith(".npy"))
        return folder

    def share(self, stage: str) -> None:
        """Upload fresh artefacts, where machines share them."""
        if self.mirror is not None:
            for run in self.runs(stage):
                if self.is_fresh(stage, run):
                    self.mirror.push(self.folder(stage, run))

    # ------------------------------------------------------------------------------------- what it is made of
    @cached_property
    def _settings(self) -> dict[str, dict[str, BaseModel]]:
        c = self.configuration
        return {
            "ingest": dict(c.ingest().runs),
            "featurize": dict.fromkeys(c.ingest().runs, c.featurize()),
            "data_report": {"": c.featurize()},
            "teachers": dict(c.teachers().runs),
            "distill": dict(c.distill().runs),
            "evaluate": {"": c.evaluate()},
        }

    def _inputs(self, stage: str, run: str) -> dict[str, str]:
        """Name → content hash of what the artefact is made from."""
        c = self.configuration
        if stage == "ingest":
            fixed = evaluation_set_file(c.project, c.run.dataset)
            used = not c.ingest().splits and fixed.exists()
            return {"raw": self.raw} | ({"evaluation_set": content_hash(fixed)} if used else {})
        settings = self._settings[stage][run]
        made = {
            source: {f"{name}/{r}".rstrip("/"): (source, r) for r in self._settings[source]}
            for source, name in ARTEFACTS.items()
        }
        names = {
            "featurize": {"manifest": ("ingest", run)},
            "data_report": made["ingest"] | made["featurize"],
            "evaluate": {k: v for artefacts in made.values() for k, v in artefacts.items()},
        }.get(stage) or {"features": ("featurize", getattr(settings, "split", ""))}
        files: dict[str, Path] = {}
        if isinstance(settings, TeacherRun):
            files = {f"weights/{m}": f for m, f in c.teacher_weights.items() if m == settings.modality}
        elif isinstance(settings, StudentRun):
            files = {f"weights/{m}": file for m, file in c.weights.items()}
            files |= {"start": c.start} if c.start is not None and c.start.exists() else {}
            repeat = run.partition("/")[2]
            encoders = settings.encoders if settings.needs_teachers else ()
            names |= {f"teachers/{m}": ("teachers", f"{m}/{repeat}") for m in encoders}
        # The manifest names files; their content is the raw data's.
        raw = {"raw": self.raw} if stage in ("featurize", "data_report") else {}
        hashes = {name: content_hash(file) for name, file in files.items()}
        return {name: self.content(*artefact) for name, artefact in names.items()} | hashes | raw

    def content(self, stage: str, run: str) -> str:
        """The content hash of an artefact. Raises PendingInputError where it is not made yet."""
        if failed := self.failures.get((stage, run)):
            return f"failed: {failed.reason}"
        folder, expected = self.folder(stage, run), self.fingerprint(stage, run)
        card = read_card(folder)
        if card is None or card.get("fingerprint") != expected:
            raise PendingInputError(f"{f'{stage} {run}'.strip()}: {folder} is not made yet.")
        return str(card["content"])

    def entries(self, stage: str, run: str = "") -> tuple[list[str], list[tuple[str, str]]]:
        """The code that an artefact uses: entry points in the package (see `CodeGraph`), and external
        plug-ins as (name, entry-point group)."""
        settings = self._settings[stage][run]
        entries, external = {*ENTRIES[stage], *settings_classes(settings)}, set()
        for package, name in _plug_ins(self.configuration, stage, settings):
            if self.graph.has(f"{package}.{name}"):
                entries.add(f"{package}.{name}")
            else:
                group = f"g2d_pipeline.{package.rpartition('.')[2]}"
                external.add((name, LAYOUT_GROUP if package == "sources" else group))
        return sorted(entries), sorted(external)

    def _code_of(self, stage: str, run: str) -> str:
        entries, external = self.entries(stage, run)
        key = (*entries, *(name for name, _ in external))
        if key not in self._code:
            others = [external_fingerprint(*plug_in) for plug_in in external]
            self._code[key] = fingerprint([self.graph.fingerprint(entries), *others])
            self.graph.save()
        return self._code[key]


def settings_classes(settings: Any) -> Iterator[str]:
    """The classes of settings in use, at any depth, as `config.<module>.<class>`."""
    if isinstance(settings, BaseModel):
        cls = type(settings)
        package, _, module = cls.__module__.partition(".")
        if package == PACKAGE.name and module:
            yield f"{module}.{cls.__name__}"
        for name in cls.model_fields.keys() - RUN_OPTIONS:
            yield from settings_classes(getattr(settings, name))
    elif isinstance(settings, Mapping | list | tuple):
        for value in settings.values() if isinstance(settings, Mapping) else settings:
            yield from settings_classes(value)


def _plug_ins(configuration: Configuration, stage: str, settings: BaseModel) -> Iterator[tuple[str, str]]:
    """(package, name) of the plug-ins of a stage: layout, kinds, encoders, fusion, method."""
    runs: list[BaseModel] = [settings]
    if again := isinstance(settings, EvaluateSettings) and settings.robustness:  # all models run again
        runs = [*configuration.teachers().runs.values(), *configuration.distill().runs.values()]
    if stage == "ingest":
        layout = configuration.dataset.raw.layout
        yield "sources", MODULES.get(layout, layout)
    if stage in ("featurize", "data_report") or again:
        yield from (("features.kinds", m.kind) for m in configuration.dataset.modalities.values())
    for run in runs:
        if isinstance(run, TeacherRun | StudentRun):
            yield from (("models.encoders", encoder.name) for encoder in run.encoders.values())
            yield "models.fusions", run.fusion.name if isinstance(run, StudentRun) else "late"
        if isinstance(run, StudentRun) and not again:
            yield "methods", run.algorithm
