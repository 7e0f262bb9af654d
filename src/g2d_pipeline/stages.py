"""Is this artefact fresh? Fingerprints of stages, stage cards, and folders that are whole or not there.

A fingerprint is a hash of (fingerprints of the inputs, the parameters this stage reads, the library's source
files it uses). It stands in the artefact's path and in its stage card: an artefact that exists under it is
fresh."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from g2d_pipeline.config import FUSION_GROUP, ExternalFusion, StudentRun
from g2d_pipeline.errors import DataError
from g2d_pipeline.methods import METHOD_GROUP
from g2d_pipeline.resolve import Configuration

CARD = "stage.json"
PACKAGE = Path(__file__).parent
TRAINING = ["models/*.py", "models/fusions/base.py", "models/fusions/late.py", "training/*.py", "methods/base.py",
            "artefacts.py"]  # fmt: skip
# The library's source files that each stage uses; `*` matches files of one folder.
SOURCES = {
    "ingest": ["pipelines/ingest/*.py", "sources/*.py", "samples/*.py"],
    "featurize": ["pipelines/featurize/*.py", "features/*.py", "features/kinds/*.py"],
    "data_report": ["pipelines/data_report/*.py", "data_report/*", "html.py"],
    "teachers": ["pipelines/teachers/*.py", *TRAINING, "methods/unimodal.py"],
    # and the method's own file
    "distill": ["pipelines/distill/*.py", *TRAINING, "models/fusions/*.py", "methods/_*.py"],
    "evaluate": ["pipelines/evaluate/*.py", "evaluation/*", "data_report/*", "html.py"],
}  # fmt: skip
LIBRARIES = ("kedro", "numpy", "pandas", "tokenizers", "torch", "torchaudio", "torchvision", "scikit-learn")


def fingerprint(content: Any) -> str:
    """Twelve hexadecimal digits of plain data (as canonical JSON)."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def code_fingerprint(patterns: list[str], package: Path = PACKAGE) -> str:
    """The hash of the source files that match, by name and content."""
    files = sorted(
        {f for pattern in patterns for f in package.glob(pattern) if f.is_file() and f.suffix != ".pyc"}
    )
    return fingerprint(
        [(str(f.relative_to(package)), hashlib.blake2b(f.read_bytes()).hexdigest()) for f in files]
    )


def content_fingerprint(file: Path) -> str:
    """The hash of a file's content, wherever it lies. Raises DataError where it can not be read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=6)).hexdigest()
    except OSError as error:
        raise DataError(f"{file} can not be read ({error.strerror}).") from None


def method_fingerprint(algorithm: str, package: Path = PACKAGE) -> str:
    """The hash of the file that implements a method, wherever it lies. Nothing is imported but its parents."""
    if (package / "methods" / f"{algorithm}.py").exists():
        return code_fingerprint([f"methods/{algorithm}.py"], package)
    return outside_fingerprint(algorithm, METHOD_GROUP)


def _student_code(cell: StudentRun, package: Path) -> str:
    """The method's file, and that of a fusion of another package."""
    method = method_fingerprint(cell.algorithm, package)
    if not isinstance(cell.fusion, ExternalFusion):
        return method
    return fingerprint([method, outside_fingerprint(cell.fusion.name, FUSION_GROUP)])


def outside_fingerprint(name: str, group: str) -> str:
    """The hash of the file of another package: an entry point's of `group`, or a module's or class's dotted
    path."""
    module = next((e.module for e in metadata.entry_points(group=group) if e.name == name), name)
    try:
        spec = util.find_spec(module) or util.find_spec(module.rpartition(".")[0])
    except (ModuleNotFoundError, ValueError):
        spec = None  # told where it is loaded
    return fingerprint(Path(spec.origin).read_text() if spec is not None and spec.origin else name)


@dataclass(frozen=True)
class Plan:
    """The stage card of every artefact of a run, by stage and cell (cell "" where a stage makes one
    artefact)."""

    cards: dict[str, dict[str, dict[str, Any]]]

    def card(self, stage: str, cell: str = "") -> dict[str, Any]:
        return self.cards[stage][cell]

    def fingerprint(self, stage: str, cell: str = "") -> str:
        return str(self.card(stage, cell)["fingerprint"])


def make_plan(configuration: Configuration, raw_signature: str, package: Path = PACKAGE) -> Plan:
    """The cards of all stages of this configuration, given a content hash of the raw data."""
    source, device, dataset = configuration.source, configuration.run.device, configuration.run.dataset
    code = {stage: code_fingerprint(patterns, package) for stage, patterns in SOURCES.items()}

    def card(
        stage: str, inputs: dict[str, str], parameters: Any, seed: int | None = None, extra: str = ""
    ) -> dict[str, Any]:
        content = {
            "stage": stage,
            "inputs": inputs,
            "parameters": parameters,
            "code": fingerprint([code[stage], extra]) if extra else code[stage],
        }
        about = {"dataset": dataset, "source": source, "device": device, "seed": seed}
        return content | about | {"fingerprint": fingerprint(content)}

    ingest = card(
        "ingest", {"raw": raw_signature}, configuration.ingest().model_dump(mode="json", exclude={"machine"})
    )
    features = card(
        "featurize",
        {"manifest": ingest["fingerprint"]},
        configuration.featurize().model_dump(mode="json", exclude={"machine"}),
    )
    described = card(
        "data_report", {"manifest": ingest["fingerprint"], "features": features["fingerprint"]}, {}
    )
    inputs = {"features": features["fingerprint"]}
    weights = {m: {f"weights/{m}": content_fingerprint(file)} for m, file in configuration.weights.items()}
    teachers = {
        name: card(
            "teachers", inputs | weights.get(cell.modality, {}), cell.model_dump(mode="json"), cell.seed
        )
        for name, cell in configuration.teachers().cells.items()
    }
    students = {
        name: card(
            "distill",
            inputs
            | {name: digest for of in weights.values() for name, digest in of.items()}
            | {
                t: of["fingerprint"]
                for t, of in teachers.items()
                if cell.needs_teachers and of["seed"] == cell.seed
            },
            cell.model_dump(mode="json"),
            cell.seed,
            _student_code(cell, package),
        )
        for name, cell in configuration.distill().cells.items()
    }
    evaluate = card(
        "evaluate",
        {"manifest": ingest["fingerprint"], "data_report": described["fingerprint"]}
        | {f"teachers/{t}": of["fingerprint"] for t, of in teachers.items()}
        | {f"students/{s}": of["fingerprint"] for s, of in students.items()},
        configuration.evaluate().model_dump(mode="json"),
    )
    return Plan(
        {
            "ingest": {"": ingest},
            "featurize": {"": features},
            "data_report": {"": described},
            "teachers": teachers,
            "distill": students,
            "evaluate": {"": evaluate},
        }
    )


# -------------------------------------------------------------------------------------- folders, whole or not
@dataclass(frozen=True)
class Clock:
    """Wall and CPU seconds since it was started (children's CPU time included)."""

    wall: float
    cpu: float

    @classmethod
    def start(cls) -> Clock:
        return cls(time.monotonic(), cls._cpu())

    @staticmethod
    def _cpu() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    def read(self) -> dict[str, float]:
        return {
            "wall_seconds": round(time.monotonic() - self.wall, 3),
            "cpu_seconds": round(self._cpu() - self.cpu, 3),
        }


def versions() -> dict[str, str]:
    """The versions of Python, of this library and of the libraries that shape its numbers."""
    found = {"python": platform.python_version(), "g2d-pipeline": _version("g2d-pipeline")}
    return found | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def read_card(folder: Path) -> dict[str, Any] | None:
    """The stage card of a folder, or None where there is none that can be read."""
    try:
        card = json.loads((folder / CARD).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None  # torn by a crash of the disk: the artefact counts as not there and is made anew
    return card if isinstance(card, dict) else None


def write_card(folder: Path, card: dict[str, Any], clock: Clock) -> None:
    """Write the stage card with the time the stage took and the versions in use, under a temporary name
    first."""
    text = json.dumps(
        card | clock.read() | {"versions": versions()}, indent=2, sort_keys=True, ensure_ascii=False
    )
    partial = folder / f"{CARD}.partial"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(folder / CARD)


def is_fresh(folder: Path, wanted: str) -> bool:
    """Whether the folder holds a whole artefact of this fingerprint."""
    card = read_card(folder)
    return card is not None and card.get("fingerprint") == wanted


def require_fresh(folder: Path, wanted: str, what: str) -> None:
    """Raise DataError unless the artefact is there and fresh: a stale one is never read."""
    if not is_fresh(folder, wanted):
        raise DataError(
            f"{what}: {folder} does not hold the artefact {wanted}. Run again, or with --params rebuild=true."
        )


@contextmanager
def whole_folder(
    folder: Path, card: dict[str, Any], clock: Clock, keep_partial: bool = False
) -> Iterator[Path]:
    """Write an artefact so that it is there whole or not at all.

    Yields a private folder beside the final one; when the block ends well, the stage card is added and the
    folder renamed into place. `keep_partial`: what a killed run left there stays, for a writer that goes on
    from it."""
    partial = folder.with_name(folder.name + ".partial")
    if not keep_partial:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    yield partial
    write_card(partial, card, clock)
    for file in partial.rglob("*"):
        _sync(file)
    if folder.exists():
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
        partial.replace(folder)
        shutil.rmtree(old)
    else:
        partial.replace(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
