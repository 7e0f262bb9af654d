"""The result table as files: Markdown and LaTeX as it is read, CSV with every number in full."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .metrics import metric_spec
from .records import MULTI, Failure
from .statistics import BETTER
from .tables import marks, row_labels, summary_table, table_title


def table_files(
    summary: pd.DataFrame,
    comparisons: pd.DataFrame | None = None,
    unit: str = "",
    failures: Sequence[Failure] = (),
) -> dict[str, str]:
    """`"md"`, `"tex"`, `"csv"` → the file's text. What is told to be better than joint training is bold; the
    CSV is `summary`."""
    wide, labels = summary_table(summary, None, failures), row_labels(summary, failures)
    title, known = table_title(summary).replace("\n", "; "), marks(comparisons)
    title = ". ".join(filter(None, [title, "Bold: better than joint" * (BETTER in known.values())]))
    rows: list[Any] = list(wide.index)
    columns: list[Any] = list(wide.columns)
    bold = [[p == MULTI and known.get((method, name)) == BETTER for name, p in columns] for method, _ in rows]
    heads = [(metric_spec(name).title(unit), part) for name, part in columns]
    wide.index = pd.Index([labels[key] for key in rows], name="")
    wide.columns = pd.MultiIndex.from_tuples(heads)
    return {
        "md": _markdown(wide, np.array(bold), title),
        "tex": _latex(wide, np.array(bold), title),
        "csv": summary.to_csv(index=False),
    }


def _markdown(wide: pd.DataFrame, bold: np.ndarray, title: str) -> str:
    heads: list[Any] = list(wide.columns)
    rows = [["", *(f"{name}, {part}" for name, part in heads)]]
    for label, cells, row in zip(wide.index, wide.to_numpy(), bold, strict=True):
        rows.append([label, *(f"**{c}**" if mark else c for c, mark in zip(cells, row, strict=True))])
    return f"{title}\n\n{markdown(rows, right=len(heads))}"


def markdown(rows: Sequence[Sequence[object]], right: int = 0) -> str:
    """Rows of cells, the first of them the heads, as Markdown; `right`: how many columns align right."""
    aligned = ["---"] * (len(rows[0]) - right) + ["---:"] * right
    escaped = [[str(cell).replace("|", r"\|").replace("<", "&lt;") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in [escaped[0], aligned, *escaped[1:]])


def _latex(wide: pd.DataFrame, bold: np.ndarray, title: str) -> str:
    """A `table` for the packages booktabs and multirow."""
    marks = np.where(bold, "textbf:--rwrap;", "")
    style = wide.style.format(escape="latex").apply(lambda _: marks, axis=None)
    for axis in (0, 1):
        style = style.format_index(escape="latex", axis=axis)
    caption = title.translate({ord(c): f"\\{c}" for c in "&%$#_{}"})
    aligned = "l" + "r" * wide.shape[1]
    return style.to_latex(hrules=True, multicol_align="c", column_format=aligned, caption=caption)
