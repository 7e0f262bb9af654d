"""`retrain.json` and `gates.json`: how the last retraining of a data set ended."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from g2d_pipeline.files import atomic_write


def outcome_file(project: Path, dataset: str, name: str = "retrain.json") -> Path:
    return project / "data" / "08_reporting" / dataset / name


def read_outcome(file: Path) -> dict[str, Any]:
    """What the file says; nothing where it is absent or damaged: then the retraining is done again."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_outcome(file: Path, content: dict[str, Any]) -> None:
    """Write it, whole or not at all, with the time."""
    stamped = content | {"time": datetime.now(UTC).isoformat(timespec="seconds")}
    with atomic_write(file) as path:
        path.write_text(json.dumps(stamped, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
