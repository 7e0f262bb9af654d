"""The room stands alone."""

from __future__ import annotations

import subprocess
import sys


def test_neither_torch_nor_kedro_is_imported():
    code = "import sys, g2d_pipeline.evaluation; print(sorted({'torch', 'kedro'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
