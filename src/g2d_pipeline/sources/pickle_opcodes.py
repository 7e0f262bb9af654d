"""A pickle's opcodes, looked through before anything is executed: what they ask for, and how much memory they
declare.

The unpickler itself believes lengths and memo indices, and allocates gigabytes for a file of thirty bytes.
"""

from __future__ import annotations

import mmap
import re

# Opcodes of a fixed size and those that end with a line; none of them declares memory, and the unpickler
# judges the names in them. One expression, because a list of lists of numbers has hundreds of millions of
# them.
HARMLESS = re.compile(
    rb"(?:G.{8}|[()\]}ltdeausbRoN012\x81\x85-\x89\x8f-\x94]|[Kqh\x80].|M..|[Jj].{4}"
    rb"|[FILSVg][^\n]*\n|[ci][^\n]*\n[^\n]*\n)++",
    re.DOTALL,
)
# opcode → bytes of the little-endian length that follows it: strings, bytes, long numbers, frames
SIZED = {0x43: 1, 0x55: 1, 0x8A: 1, 0x8C: 1, 0x42: 4, 0x54: 4, 0x58: 4, 0x8B: 4, 0x8D: 8, 0x8E: 8, 0x96: 8}
FRAME, LONG_BINPUT, PUT, STOP = 0x95, 0x72, 0x70, 0x2E
REFUSED = {
    0x50: "a persistent id",
    0x51: "a persistent id",
    0x82: "the extension registry",
    0x83: "the extension registry",
    0x84: "the extension registry",
    0x97: "a buffer outside the file",
    0x98: "a buffer outside the file",
}
INDEX = re.compile(rb"([0-9]{1,18})\r?\n")
FOREIGN = {
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\x1f\x8b": "compressed with gzip: unpack it",
    b"BZh": "compressed with bzip2: unpack it",
    b"\xfd7zXZ": "compressed with xz: unpack it",
    b"\x93NUMPY": "a .npy array",
    b"\x89HDF": "an HDF5 file",
    b"Rar!": "a RAR archive: unpack it",
}


class OpcodeError(ValueError):
    """What is wrong with a stream of opcodes, in words that follow the file's name."""


def check_opcodes(data: bytes | mmap.mmap) -> None:
    """Raise OpcodeError unless `data` is one whole pickle (protocol 0 to 5) of opcodes that plain data need.

    Every declared length lies within `data`, and every memo index is below its size: loading it allocates no
    more than a constant times what `data` holds."""
    size = len(data)
    for magic, words in FOREIGN.items():
        if data[: len(magic)] == magic:
            raise OpcodeError(f"is no pickle but {words}")
    position = 0
    while True:
        if match := HARMLESS.match(data, position):
            position = match.end()
        if position >= size:
            raise OpcodeError(f"is truncated: it ends after {size} bytes, within the pickle")
        code = data[position]
        if code == STOP:
            break
        if code in REFUSED:
            raise OpcodeError(f"asks for {REFUSED[code]} (at byte {position}), which plain data have not")
        position = _behind(data, position, size)
    if position + 1 != size:
        raise OpcodeError(f"holds {size - position - 1} bytes behind the end of its pickle")


def _behind(data: bytes | mmap.mmap, position: int, size: int) -> int:
    """Where the opcode after the one at `position` starts: one that declares a length or a memo index."""
    code = data[position]
    if code == PUT:
        match = INDEX.match(data, position + 1)
        if match is None:
            raise OpcodeError(f"is no pickle, or damaged (at byte {position})")
        index, behind = int(match[1]), match.end()
    elif code == LONG_BINPUT:
        index, behind = int.from_bytes(data[position + 1 : position + 5], "little"), position + 5
    elif code == FRAME:
        index, behind = 0, position + 9
        if behind + int.from_bytes(data[position + 1 : behind], "little") > size:
            raise OpcodeError(f"is truncated: a frame at byte {position} goes beyond its {size} bytes")
    elif code in SIZED:
        start = position + 1 + SIZED[code]
        index, behind = 0, start + int.from_bytes(data[position + 1 : start], "little")
    else:  # an opcode of HARMLESS that is cut off, or none at all
        cut = chr(code) in "GKqhMJjFILSVgci\x80"
        words = f"is truncated: it ends after {size} bytes" if cut else "is no pickle, or damaged"
        raise OpcodeError(f"{words} (at byte {position})")
    if behind > size:
        raise OpcodeError(f"is truncated: what starts at byte {position} goes to byte {behind} of {size}")
    if index >= size:
        raise OpcodeError(
            f"declares {index} remembered objects (at byte {position}) in {size} bytes: it is hostile"
        )
    return behind
