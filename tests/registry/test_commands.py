"""`kedro models …`, as it is typed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from g2d_pipeline.cli.models import models
from g2d_pipeline.registry.store import Registry
from tests.conftest import REPOSITORY


@pytest.fixture
def project(registry: Registry, small: Path) -> Registry:
    """A project with two versions of the model of `av_digits`, the first one being the champion."""
    shutil.copytree(REPOSITORY / "conf", registry.project / "conf")
    shutil.copy(REPOSITORY / "pyproject.toml", registry.project)
    shutil.copytree(REPOSITORY / "data/01_raw/av_digits", registry.project / "data/01_raw/av_digits")
    metrics = {"test/multi/accuracy": 0.75, "test/multi/accuracy/low": 0.7, "test/multi/accuracy/high": 0.8}
    for method in ("joint", "g2d"):
        tags = {"method": method, "seed": "1", "outcome": "promoted"}
        registry.register("av_digits", small, parameters={}, metrics=metrics, tags=tags)
    registry.promote("av_digits", 1)
    return registry


def kedro(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(models, arguments)
    assert result.exit_code == status, result.output
    return result.output


def test_history_promotion_rollback_and_what_is_deployed(project: Registry) -> None:
    first, second, third = kedro("history").splitlines()
    assert first.split() == ["version", "aliases", "created", "metric", "method", "seed", "outcome"]
    assert "challenger" not in second  # promotion ends it
    assert second.split()[0] == "2"
    assert "champion" in third
    assert "test/multi/accuracy 0.7500 [0.7000, 0.8000]" in third
    assert third.split()[-3:] == ["joint", "1", "promoted"]
    words = "av_digits has no previous version to go back to. `kedro models history"
    assert words in kedro("rollback", "--dataset", "av_digits", status=1)
    assert kedro("promote", "2") == "av_digits: version 2 is the champion.\n"
    assert "models:/av_digits@champion" in kedro("deployed")
    assert "version 1 of " in kedro("rollback")
    assert "no version 9" in kedro("promote", "9", status=1)
    assert "crema_d has no registered version. Data sets that have: av_digits" in kedro(
        "history", "-d", "crema_d"
    )
    assert "registry: version 1 champion av_digits" in " ".join(kedro("disk").split())


def test_clean_lists_first_and_deletes_when_asked(project: Registry) -> None:
    leftover = project.project / "data/04_feature/av_digits/features-1.old"
    leftover.mkdir(parents=True)
    os.utime(leftover, (0, 0))
    listed = kedro("clean", "--dataset", "av_digits")
    assert "data/04_feature/av_digits/features-1.old" in listed
    assert "Nothing is deleted yet: `kedro models clean --yes` does it." in listed
    assert leftover.is_dir()
    assert "deleted" in kedro("clean", "--dataset", "av_digits", "--yes")
    assert not leftover.exists()
