"""Hundreds of promotions under four readers: each reads a whole version, the one that the alias names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from g2d_pipeline.registry.store import Registry
from g2d_pipeline.serving.registered import DATABASE
from tests.conftest import REPOSITORY
from tests.registry.test_store import register

PROMOTIONS = 500
# Two threads that read by `how` until the file `stop` is there; prints how often and which versions.
READER = """
import json, sys, threading, time
from pathlib import Path
from g2d_pipeline.config import RegistrySettings
from g2d_pipeline.registry.store import Registry

how, project = sys.argv[1], Path(sys.argv[2])
registry = Registry(RegistrySettings(), project)
if how == "mlflow":
    from mlflow import MlflowClient
    client = MlflowClient(registry.uri, registry.uri)

def read():
    if how == "mlflow":
        version = client.get_model_version_by_alias("digits", "champion")
        return int(version.version), Path(version.source.removeprefix("file://")) / "artifacts" / "small"
    version = registry.get("digits", "champion")
    return version.number, version.folder()

def loop():
    while not (project / "stop").exists():
        try:
            number, folder = read()
            content = (folder / "number.txt").read_text()
            if content != str(number):
                errors.append(f"version {number} has the content of {content}")
        except Exception as error:
            errors.append(repr(error))
        seen.append(number)
        time.sleep(0.03)

errors, seen = [], []
read()
(project / f"ready-{how}").touch()
threads = [threading.Thread(target=loop) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps({"errors": errors, "reads": len(seen), "versions": sorted(set(seen))}))
"""

# Dies in the middle of a promotion, when some of it is in the file already.
KILLED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
connection.execute("UPDATE registered_model_aliases SET version = 2 WHERE alias = 'champion'")
insert = "INSERT INTO registered_model_tags (workspace, name, key, value) VALUES ('default', 'digits', ?, ?)"
for i in range(500):
    connection.execute(insert, (str(i), "x" * 1000))
os._exit(9)
"""


def test_a_promotion_that_is_killed_is_undone(registry: Registry, small: Path) -> None:
    for _ in range(2):
        register(registry, small)
    registry.promote("digits", 1)
    file = registry.project / DATABASE
    assert subprocess.run([sys.executable, "-c", KILLED, str(file)]).returncode == 9
    assert file.with_name("mlflow.db-journal").stat().st_size > 0
    champion = registry.get("digits", "champion")
    assert champion is not None
    assert champion.number == 1
    registry.promote("digits", 2)


@pytest.mark.slow
def test_promotions_under_readers(registry: Registry, small: Path) -> None:
    for number in (1, 2, 3):
        (small / "number.txt").write_text(str(number))
        register(registry, small)
    registry.promote("digits", 1)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, how, str(registry.project)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for how in ("mlflow", "direct")
    ]  # fmt: skip
    try:
        while len(list(registry.project.glob("ready-*"))) < 2:
            assert all(reader.poll() is None for reader in readers), [r.communicate() for r in readers]
            time.sleep(0.05)
        for i in range(PROMOTIONS):
            registry.promote("digits", 1 + (i + 1) % 3)
    finally:
        (registry.project / "stop").touch()
        outputs = [reader.communicate(timeout=60) for reader in readers]
    for out, err in outputs:
        result = json.loads(out or json.dumps({"errors": [err]}))
        assert result["errors"] == []
        assert result["versions"] == [1, 2, 3]
        assert result["reads"] > 100
    assert [v.number for v in registry.versions("digits") if "previous" in v.aliases] == [
        1 + (PROMOTIONS - 1) % 3
    ]
