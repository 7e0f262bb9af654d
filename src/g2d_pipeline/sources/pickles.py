"""The one place that unpickles: plain containers, numbers, strings, bytes and numpy arrays; nothing else.

No name in a file is imported. First the opcodes are scanned: the unpickler itself believes lengths and memo
indices, and allocates gigabytes for a file of thirty bytes. Then the few names that plain data need stand for
functions that check their arguments; all other names are refused (datasets.md §4.2, §4.6)."""

import math
import mmap
import pickle
import pickletools
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from reprlib import repr as short_repr  # of a value that the file chose: its own repr may be endless
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import DataError, data_error, media_fault

REMEDY = (
    "download the file again from where it is published; never load it by other means before you know why."
)
LARGEST = 16 * 2**30  # bytes
DEEPEST = 40  # containers within containers
SCALARS = {np.dtype(code).type for code in "?bhilqBHILQefdgFDSU"}
SCALARS |= {int, float, complex, bool, str, bytes, type(None)}
# What C code raises for opcodes that make no sense (documented: "not limited to" the first few).
UNPICKLING_ERRORS = (
    *(UnpicklingError, EOFError, AttributeError, ImportError, LookupError, ValueError, TypeError),
    *(ArithmeticError, BufferError, RecursionError, SystemError),
)


class Refused(ValueError):
    """Why a file is not loaded, in words that follow its name."""


def load_plain(path: Path, largest: int = LARGEST) -> Any:
    """A pickle's content: dict, list, tuple, set, frozenset, numbers, str, bytes, None and arrays.

    Strings of Python 2 are decoded as latin-1; `OrderedDict` becomes dict, `bytearray` bytes; arrays are of
    any numpy version, read-only, their dtype boolean, a number, text, or object with plain elements. One
    object in several places of the file is one object in the result.

    Raises DataError naming the file where it is missing, empty, a Git-LFS pointer, HTML, larger than
    `largest` bytes, truncated, damaged, names anything else (`module.name`), or declares more than it has."""
    try:
        if fault := media_fault(path):
            raise Refused(fault)
        with path.open("rb", buffering=2**20) as file:
            if (size := path.stat().st_size) > largest:
                raise Refused(f"is too large for a pickle ({size} bytes; {largest} are allowed)")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                check_opcodes(data)
            content = _Unpickler(file, encoding="latin-1", errors="strict").load()
        return _Plain().finish(content)
    except OSError as error:
        raise DataError(f"{path} can not be read ({error.strerror}).") from None
    except MemoryError:
        headline = f"{path} does not fit into memory ({path.stat().st_size} bytes as a file)"
        raise data_error(headline, [], "free some memory.") from None
    except Refused as error:
        raise data_error(f"{path} {error}", [], REMEDY) from None
    except UNPICKLING_ERRORS as error:
        raise data_error(f"{path} is not a pickle of plain data: {error}", [], REMEDY) from None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for in `NAMES`; never an import."""
        if (module, name) not in NAMES:
            raise Refused(f"asks for {module}.{name}, which plain data do not need: nothing of it is loaded")
        return NAMES[module, name]


# ---------------------------------------------------------------------------------- opcodes, before execution
# Opcodes of a fixed size and those that end with a line; none of them declares memory, and the unpickler
# checks the names in them. One expression: a list of lists of numbers has hundreds of millions of them.
HARMLESS = re.compile(
    rb"(?:G.{8}|[()\]}ltdeausbRoN012\x81\x85-\x89\x8f-\x94]|[Kqh\x80].|M..|[Jj].{4}"
    rb"|[FILSVg][^\n]*\n|[ci][^\n]*\n[^\n]*\n)++",
    re.DOTALL,
)
# opcode → bytes of the little-endian length that follows it: strings, bytes, long numbers, frames
SIZED = dict.fromkeys(b"CU\x8a\x8c", 1) | dict.fromkeys(b"BTX\x8b", 4) | dict.fromkeys(b"\x8d\x8e\x95\x96", 8)
FRAME, LONG_BINPUT, PUT, STOP = b"\x95rp."
INDEX = re.compile(rb"([0-9]{1,18})\r?\n")
FOREIGN = {
    b"PK\x03\x04": "a zip archive: unpack it", b"\x1f\x8b": "compressed with gzip: unpack it",
    b"Rar!": "a RAR archive: unpack it", b"BZh": "compressed with bzip2: unpack it",
    b"\xfd7zXZ": "compressed with xz: unpack it", b"\x89HDF": "an HDF5 file", b"\x93NUMPY": "a .npy array",
}  # fmt: skip


def check_opcodes(data: bytes | mmap.mmap) -> None:
    """Raise Refused unless `data` is one whole pickle (protocol 0 to 5) of opcodes that plain data need.

    Every declared length lies within `data`, and every memo index is below its size: loading it allocates no
    more than a constant times what `data` holds."""
    size = len(data)
    for magic, words in FOREIGN.items():
        if data[: len(magic)] == magic:
            raise Refused(f"is no pickle but {words}")
    position = 0
    while True:
        if match := HARMLESS.match(data, position):
            position = match.end()
        if position >= size:
            raise Refused(f"is truncated: it ends after {size} bytes, within the pickle")
        if data[position] == STOP:
            break
        position = _next_opcode(data, position, size)
    if position + 1 != size:
        raise Refused(f"holds {size - position - 1} bytes behind the end of its pickle")


def _next_opcode(data: bytes | mmap.mmap, position: int, size: int) -> int:
    """Where the opcode after the one at `position` starts: one that declares a length or a memo index."""
    code, start, index = data[position], position + 1, 0
    if code == PUT and (match := INDEX.match(data, start)):
        index, end = int(match[1]), match.end()
    elif code == LONG_BINPUT:
        index, end = int.from_bytes(data[start : start + 4], "little"), start + 4
    elif code in SIZED:
        start += SIZED[code]
        end = start + int.from_bytes(data[position + 1 : start], "little")
    elif chr(code) in "GKqhMJjFILSVgci\x80":  # an opcode of HARMLESS, cut off
        raise Refused(f"is truncated: it ends after {size} bytes (at byte {position})")
    else:
        name = next((opcode.name for opcode in pickletools.opcodes if opcode.code == chr(code)), "none")
        raise Refused(f"is no pickle of plain data, or damaged (opcode {name} at byte {position})")
    if end > size:
        raise Refused(f"is truncated: what starts at byte {position} goes to byte {end} of {size}")
    if index >= size:
        raise Refused(f"declares {index} memo entries (at byte {position}) in {size} bytes: it is hostile")
    return start if code == FRAME else end  # what a frame holds is read opcode by opcode


# ---------------------------------------------------------------------- what a file can build, piece by piece
def _check(ok: Any, reason: str) -> None:
    if not ok:
        raise UnpicklingError(reason)


class PendingDType:
    """A numpy dtype while it is unpickled: first its code, then (BUILD) its byte order."""

    __slots__ = ("value",)

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        plain = type(code) is str and re.fullmatch(r"[biuf](1|2|4|8|16)|c(8|16)|[SU][0-9]{1,6}|O[48]?", code)
        _check(plain, f"it has an array of dtype {short_repr(code)}, which is neither a number nor text")
        self.value: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """`state`: (version, byte order, subarray, names, fields, size, alignment, flags), as of numpy."""
        plain = len(state) == 8 and all(part is None for part in state[2:5]) and state[1] in tuple("<>=|")
        _check(plain, f"it has a dtype that is not plain: {self.value.str!r} with {short_repr(state)}")
        same_size = state[5] in (-1, self.value.itemsize)
        _check(same_size, f"its dtype {self.value.str!r} declares {short_repr(state[5])} bytes")
        if state[1] in "<>":
            self.value = self.value.newbyteorder(state[1])


class PendingArray:
    """A numpy array while it is unpickled: `value` [n] in `order`; `elements`: objects that belong in it."""

    __slots__ = ("elements", "order", "shape", "value")

    def __init__(self) -> None:
        self.value: npt.NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        """`state`: (version, shape, dtype, whether Fortran's order, bytes or the list of elements)."""
        _check(len(state) == 5, f"an array's state has {len(state)} parts instead of 5")
        _, shape, dtype, fortran, content = state
        whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        _check(whole, f"an array's shape is {short_repr(shape)}")
        _check(isinstance(dtype, PendingDType), "an array has no dtype")
        self.shape, count, size = shape, math.prod(shape), dtype.value.itemsize
        if dtype.value.hasobject:
            listed = type(content) is list and len(content) == count
            _check(listed, f"an array of objects of shape {short_repr(shape)} does not hold {count}")
            # numpy lists objects in C's order, whatever the array's
            self.elements, self.order, self.value = content, "C", np.empty(count, object)
            return
        _check(size or not count, f"an array {short_repr(shape)} has elements of no bytes")
        raw = _array_bytes(content)
        held = f"promises {count * size} bytes and holds {len(raw)}"
        _check(count * size == len(raw), f"an array {short_repr(shape)} {held}")
        self.elements, self.order = [], "F" if fortran else "C"
        self.value = np.frombuffer(raw, dtype.value)
        self.value.flags.writeable = False


def _array_bytes(content: Any) -> bytes | bytearray:
    """An array's bytes; Python 2 wrote a string."""
    if type(content) is str:
        return content.encode("latin-1")
    _check(type(content) in (bytes, bytearray), f"an array's content is of type {type(content).__name__}")
    return content  # type: ignore[no-any-return]


def _reconstruct(kind: Any, shape: Any, code: Any) -> PendingArray:
    _check(kind is NDARRAY and shape == (0,), "it makes an array of an unknown class or size")
    return PendingArray()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> PendingArray:
    array = PendingArray()
    array.__setstate__((1, shape, dtype, order == "F", raw))
    _check(not array.elements, "it has objects in a buffer")
    return array


def _scalar(dtype: Any, raw: Any) -> Any:
    """One number of numpy."""
    content = _array_bytes(raw)
    plain = isinstance(dtype, PendingDType) and not dtype.value.hasobject
    _check(plain and len(content) == dtype.value.itemsize, "it has a number of an unknown kind")
    return np.frombuffer(content, dtype.value)[0] if content else dtype.value.type()


def _encode(text: Any, codec: Any) -> bytes:
    """How Python 3 writes bytes in protocols 0 to 2."""
    _check(type(text) is str and codec in ("latin1", "latin-1"), f"it encodes by {short_repr(codec)}")
    return text.encode("latin-1")  # type: ignore[no-any-return]


def _complex(real: Any, imaginary: Any) -> complex:
    _check(type(real) is type(imaginary) is float, "it makes a complex number of something else")
    return complex(real, imaginary)


def _no_array(*arguments: Any) -> NoReturn:
    raise UnpicklingError("it makes an array of its own size")


def _container(kind: Callable[[Any], Any], items: Any = ()) -> Any:
    """A `kind` of one list or tuple, or of nothing."""
    _check(type(items) in (list, tuple), f"it makes a {kind.__name__} of a {type(items).__name__}")
    return kind(items)


class _Name:
    """What a name in the file stands for. It accepts no state, so that no file can change it."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise UnpicklingError(f"it sets {short_repr(name)} of a function")

    def __setstate__(self, state: Any) -> NoReturn:
        raise UnpicklingError("it gives a state to a function")


NDARRAY = _Name(_no_array)
NAMES = {("numpy", "ndarray"): NDARRAY, ("numpy", "dtype"): _Name(PendingDType)}
NAMES |= {
    ("_codecs", "encode"): _Name(_encode),
    ("collections", "OrderedDict"): _Name(partial(_container, dict)),
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1, numpy 2
    NAMES[f"{_core}.multiarray", "_reconstruct"] = _Name(_reconstruct)
    NAMES[f"{_core}.multiarray", "scalar"] = _Name(_scalar)
    NAMES[f"{_core}.numeric", "_frombuffer"] = _Name(_frombuffer)
for _builtins in ("builtins", "__builtin__"):  # Python 3 and 2, in protocols that have no opcodes for these
    NAMES[_builtins, "bytes"] = _Name(lambda: b"")
    NAMES[_builtins, "complex"] = _Name(_complex)
    NAMES[_builtins, "set"] = _Name(partial(_container, set))
    NAMES[_builtins, "frozenset"] = _Name(partial(_container, frozenset))


class _Plain:
    """Puts finished arrays in the place of pending ones, and refuses all that is not plain data."""

    def __init__(self) -> None:
        # id → a container or pending array (kept alive, so that no id is used twice), and what became of it
        self.results: dict[int, tuple[Any, Any]] = {}
        self.open: list[int] = []

    def finish(self, value: Any) -> Any:
        """`value` with its arrays; lists and dicts are changed in place, what is shared stays shared."""
        key = id(value)
        if type(value) in SCALARS:
            return value
        if key in self.results:
            return self.results[key][1]
        _check(key not in self.open, "a container holds itself")
        self.open.append(key)
        _check(len(self.open) <= DEEPEST, f"its containers are nested deeper than {DEEPEST}")
        self.results[key] = value, self._finish_new(value)
        self.open.pop()
        return self.results[key][1]

    def _finish_new(self, value: Any) -> Any:
        kind = type(value)
        if kind is bytearray:
            return bytes(value)
        if kind is tuple:
            return tuple([self.finish(item) for item in value])
        if kind is PendingArray:
            _check(value.value is not None, "it has an array without content")
            for i, element in enumerate(value.elements):
                value.value[i] = self.finish(element)
            return value.value.reshape(value.shape, order=value.order)
        if kind is list:
            if not set(map(type, value)) <= SCALARS:
                value[:] = [self.finish(item) for item in value]
            return value
        _check(kind in (dict, set, frozenset), "it holds a function or a type in the place of data")
        _check(_are_plain(value), "it has a key or an element of a set that is not plain data")
        if kind is dict:
            for key, item in value.items():
                value[key] = self.finish(item)
        return value


def _are_plain(keys: Any) -> bool:
    return all(_are_plain(k) if type(k) in (tuple, frozenset) else type(k) in SCALARS for k in keys)
