"""The lineage of a model: enough to rebuild it years later, and to see what has changed since."""

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from g2d_pipeline.cards import read_card, versions
from g2d_pipeline.files import content_hash
from g2d_pipeline.sources.hashing import cache_file, content_hashes
from g2d_pipeline.sources.layout import find_layout
from g2d_pipeline.stages import Plan

FILE = "lineage.json"
LOCK = "requirements.lock"


@dataclass(frozen=True)
class Lineage:
    """The lineage of the students of a plan."""

    plan: Plan

    def content(self, run: str) -> str:
        """The content hash of a trained student."""
        return str(self.plan.content("distill", run))

    @property
    def evaluation(self) -> Path:
        """The folder of the report."""
        return self.plan.folder("evaluate")

    def describe(self, run: str, root: Path) -> dict[str, Any]:
        """`lineage.json` of the student `run`. `root`: where the manifest's paths start."""
        plan, c = self.plan, self.plan.configuration
        settings = c.distill().runs[run]
        made = {"manifest": ("ingest", settings.split), "features": ("featurize", settings.split)}
        repeat = run.partition("/")[2]
        if settings.needs_teachers:
            made |= {f"teachers/{m}": ("teachers", f"{m}/{repeat}") for m in settings.encoders}
        made |= {f"students/{run}": ("distill", run)}
        folders = {name: plan.folder(*artefact) for name, artefact in made.items()}
        return {
            "version": 1,
            "dataset": c.run.dataset,
            "run": run,
            "seed": settings.seed,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "configuration": c.describe(),
            "parameters": c.parameters,
            "inputs": plan.card("distill", run)["inputs"],
            "contents": {name: plan.content(*artefact) for name, artefact in made.items()},
            "threads": {n: (read_card(f) or {}).get("threads") for n, f in folders.items()},  # of torch
            "fingerprints": {name: plan.fingerprint(*artefact) for name, artefact in made.items()},
            "raw": plan.raw,
            "raw_dir": c.dataset.raw.raw_dir,
            "raw_files": raw_files(plan, root),
            "lock": content_hash(c.project / LOCK) if (c.project / LOCK).exists() else None,
            **commit(c.project),
            "machine": {"platform": platform.platform(), "cpu": cpu_name(), "device": c.run.device},
            "versions": versions(),
        }


def raw_files(plan: Plan, root: Path) -> dict[str, str]:
    """Path of each raw file, relative to `root` → the hash of its content."""
    c = plan.configuration
    layout, cache = find_layout(c.dataset.raw, c.root), cache_file(c.project, c.run.dataset)
    files = [*layout.raw_files(), *layout.named_files(c.ingest(), cache)]
    present = [Path(file) for file in dict.fromkeys(map(str, files)) if Path(file).is_file()]
    return {
        Path(os.path.relpath(file, root)).as_posix(): digest
        for file, (_, digest) in content_hashes(present, cache).items()
    }


def commit(project: Path) -> dict[str, Any]:
    """`commit` of the project's repository, and whether it is `dirty`; None where there is none."""

    def git(*args: str) -> str | None:
        try:
            run = subprocess.run(["git", *args], cwd=project, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return run.stdout.strip() if run.returncode == 0 else None

    head = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no") if head else None
    return {"commit": head, "dirty": None if changes is None else bool(changes)}


def cpu_name() -> str:
    """The processor's model, as far as it is known."""
    file = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:(.*)", file.read_text() if file.exists() else "", re.MULTILINE)
    return (name and name[1].strip()) or platform.processor() or platform.machine()
