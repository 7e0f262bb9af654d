"""Processes that train together are forked from a server that has imported torch: they start in no time.

Only here: a server is handed few open files, and so tensors by their names, which are left in shared memory
where a process is killed. How users' processes start is tested by those of a script (`test_faults`) and of
Kedro's commands (`test_nodes`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import multiprocessing

from g2d_pipeline.training import launch
from tests.e2e.project import context


@pytest.fixture(autouse=True, scope="module")
def _forked() -> Iterator[None]:
    context()
    strategy = multiprocessing.get_sharing_strategy()
    multiprocessing.set_sharing_strategy("file_system")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "START_METHOD", "forkserver")
        yield
    multiprocessing.set_sharing_strategy(strategy)
