"""Quotation marks in text tables: around cells and doubled within, after backslashes, or plain characters."""

import re

from g2d_pipeline.errors import data_error

LINE_END = re.compile(r"\r\n?|\n")
MOST = 0.9  # of the lines


def normalise_quotes(text: str, file: str, separator: str, width: int, notes: list[str]) -> tuple[str, bool]:
    """The text of a table of `width` columns, and whether quotation marks in it are around cells; else they
    are characters. A backslash before one within a cell becomes a second one; blanks before a cell go.

    They are characters where they are wrong, or hold line ends, and lines are rows without them. `notes`
    tells what is not the standard. DataError, with the row, where one is not closed or not doubled."""
    if '"' not in text:
        return text, True
    start, end = rf"(?<![^{separator}\r\n])", rf"(?= *(?:[{separator}\r\n]|\Z))"
    long, wrong = _find(text, start, end)
    if f'{separator} "' in text:
        stripped = re.sub(rf'{start} *("[^"]*+(?:""[^"]*+)*+"){end}', r"\1", text)
        if (faults := _find(stripped, start, end))[1] is None:
            text, (long, wrong) = stripped, faults
    if wrong and '\\"' in text:
        escaped = rf'{start}"(?:[^"\\]|\\.|"")*+"{end}'
        doubled = re.sub(escaped, lambda cell: cell[0].replace('\\"', '""'), text, flags=re.DOTALL)
        if _find(doubled, start, end)[1] is None:
            notes.append(f"{file}: quotation marks after a backslash are read as characters of the cell.")
            return doubled, True
    if not (wrong or long):
        return text, True
    rows = [line.count(separator) == width - 1 for line in LINE_END.split(text) if line]
    if (wrong and sum(rows) > MOST * len(rows)) or (long and all(rows) and width > 1):
        row = _lines(text[: (wrong or long[0]).start()]) + 1
        marks = "quotation marks that are not around a whole cell"
        notes.append(f"{file}: {marks} are read as characters (row {row}).")
        return text, False
    if wrong:
        row = _lines(text[: wrong.start()]) - sum(_lines(cell[0]) for cell in long) + 1
        if wrong.end() == len(text):
            line = f"row {row} goes over {_lines(wrong[0].rstrip())} lines"
            raise data_error(f"{file}: a quotation mark is not closed", [line], "close it, or remove it.")
        line = f"row {row}, near {text[wrong.start() : wrong.end() + 12][:40]!r}"
        headline = f"{file}: a quotation mark is not closed, or one within a cell is not doubled"
        raise data_error(headline, [line], "close it, double it, or remove it.")
    if whole := [cell for cell in long if _holds_rows(text, cell, separator, width)]:
        lines = f"each of their lines has {width} cells"
        headline = f"{file}: {len(whole)} quoted cells hold line ends, and {lines}"
        line = f"line {_lines(text[: whole[0].start()]) + 1}"
        if separator == "\t":  # which texts do not hold
            raise data_error(headline, [line], "close the quotation marks, or remove them.")
        notes.append(f"{headline} ({line}): is a quotation mark not closed?")
    return text, True


def unquote(cell: str) -> str:
    """A cell without the quotation marks around it, if it has them."""
    cell = cell.strip()
    return cell[1:-1].replace('""', '"').strip() if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def _find(text: str, start: str, end: str) -> tuple[list[re.Match[str]], re.Match[str] | None]:
    """The quoted cells that hold line ends, and the first one that does not end where it should."""
    long: list[re.Match[str]] = []
    for cell in re.finditer(rf'{start}"[^"]*+(?:""[^"]*+)*+(?P<end>"{end})?', text):
        if cell["end"] is None:
            return long, cell
        if LINE_END.search(cell[0]):
            long.append(cell)
    return long, None


def _lines(text: str) -> int:
    return len(LINE_END.findall(text))


def _holds_rows(text: str, cell: re.Match[str], separator: str, width: int) -> bool:
    """Whether each line that the cell goes over has as many cells as a row."""
    start = max(text.rfind(end, 0, cell.start()) for end in "\r\n") + 1
    ending = LINE_END.search(text, cell.end())
    lines = LINE_END.split(text[start : ending.start() if ending else len(text)])
    return width > 1 and all(line.count(separator) == width - 1 for line in lines)
