"""`retrain.json` and `gates.json`: how the last retraining of a data set ended; and its page."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from g2d_pipeline.files import atomic_write
from g2d_pipeline.html import page_environment


def outcome_file(project: Path, dataset: str, name: str = "retrain.json") -> Path:
    return project / "data" / "08_reporting" / dataset / name


def read_outcome(file: Path) -> dict[str, Any]:
    """The content of the file; empty where it is absent or damaged: then the retraining runs again."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_outcome(file: Path, content: dict[str, Any]) -> None:
    """Write it atomically, with the time."""
    stamped = content | {"time": datetime.now(UTC).isoformat(timespec="seconds")}
    with atomic_write(file) as path:
        path.write_text(json.dumps(stamped, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_page(project: Path, dataset: str) -> None:
    """Write `retrain.html` from `retrain.json` and `gates.json`, beside them."""
    file = outcome_file(project, dataset)
    retrain = {"decision": None, "spread": None, "model_card": ""} | read_outcome(file)
    gates = {"findings": (), "notes": ()} | read_outcome(file.with_name("gates.json"))
    template = page_environment().get_template("retrain.html.j2")
    report = "/".join(Path(retrain.get("report") or "").parts[-2:])  # a folder beside this page
    text = template.render(dataset=dataset, retrain=retrain, gates=gates, report=report)
    with atomic_write(file.with_suffix(".html")) as path:
        path.write_text(text, encoding="utf-8")
