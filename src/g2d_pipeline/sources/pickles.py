"""The one place that unpickles: plain containers, numbers, strings, bytes and numpy arrays; nothing else,
ever.

No name in a file is imported. The few that plain data need stand for the small functions of `pickle_names`,
which check what they are given; all other names are refused (datasets.md §4.2, §4.6)."""

from __future__ import annotations

import mmap
import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from g2d_pipeline.errors import DataError, data_error, media_fault
from g2d_pipeline.sources.pickle_names import NAMES, ArrayInTheMaking
from g2d_pipeline.sources.pickle_opcodes import OpcodeError, check_opcodes

REMEDY = (
    "download the file again from where it is published; never load it by other means before you know why."
)
LARGEST = 16 * 2**30  # bytes
DEEPEST = 40  # containers within containers
NUMPY_SCALARS = (
    *(np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
    *(
        np.longlong,
        np.ulonglong,
        np.float16,
        np.float32,
        np.float64,
        np.longdouble,
        np.complex64,
        np.complex128,
    ),
    *(np.str_, np.bytes_),
)
SCALARS = frozenset({int, float, complex, bool, str, bytes, type(None), *NUMPY_SCALARS})
# What C code raises for streams that are well-formed but make no sense (documented: "not limited to" the
# first few).
NONSENSE = (
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError, ValueError, TypeError),
    *(ArithmeticError, BufferError, RecursionError, SystemError),
)


def load_plain(path: Path, largest: int = LARGEST) -> Any:
    """The content of a pickle of plain data: dict, list, tuple, set, frozenset, numbers, str, bytes, None,
    arrays.

    Strings of Python 2 are decoded as latin-1; `OrderedDict` becomes dict, `bytearray` bytes; arrays are of
    any numpy version, read-only, their dtype boolean, a number, text, or object with plain elements. The same
    object in several places of the file is one object in the result.

    Raises DataError naming the file where it is missing, empty, a Git-LFS pointer, HTML, larger than
    `largest` bytes, truncated or damaged; where it names anything else (`module.name`); where it declares
    more than it holds."""
    if fault := media_fault(path):
        raise data_error(f"{path} {fault}", [], REMEDY)
    try:
        with path.open("rb", buffering=2**20) as file:
            size = path.stat().st_size
            if size > largest:
                raise data_error(
                    f"{path} is too large for a pickle ({size} bytes; {largest} are allowed)", [], REMEDY
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                check_opcodes(data)
            content = _Unpickler(file, path).load()
        return _Plain().finish(content)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path} can not be read ({error.strerror}).") from None
    except MemoryError:
        raise data_error(
            f"{path} does not fit into memory ({size} bytes as a file)", [], "free some memory."
        ) from None
    except OpcodeError as error:
        raise data_error(f"{path} {error}", [], REMEDY) from None
    except NONSENSE as error:
        raise data_error(f"{path} is not a pickle of plain data: {error}", [], REMEDY) from None


class _Unpickler(pickle.Unpickler):
    """Names → the functions of `pickle_names`; never an import."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="latin-1", errors="strict")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return NAMES[module, name]
        except KeyError:
            headline = f"{self._path} asks for {module}.{name}, which plain data do not need: nothing of it is loaded"
            raise data_error(headline, [], REMEDY) from None

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it asks for a persistent id")


class _Plain:
    """Puts finished arrays into the containers, and lets nothing pass that is not plain data (a function's
    name)."""

    def __init__(self) -> None:
        self.seen: set[int] = set()  # lists, dicts and sets: changed in their place
        self.made: dict[int, tuple[Any, Any]] = {}  # id → (original, result); the original keeps its id taken
        self.open: list[int] = []

    def finish(self, value: Any) -> Any:
        """`value` with arrays in the place of arrays in the making."""
        kind = type(value)
        if kind in SCALARS:
            return value
        if id(value) in self.open:
            raise pickle.UnpicklingError("a container holds itself")
        if id(value) in self.seen:
            return value
        if id(value) in self.made:
            return self.made[id(value)][1]
        self.open.append(id(value))
        if len(self.open) > DEEPEST:
            raise pickle.UnpicklingError(f"its containers are nested deeper than {DEEPEST}")
        if kind is list or kind is dict:
            self.seen.add(id(value))
            self._fill(value)
            result = value
        elif kind is set or kind is frozenset:
            self._check_keys(value)
            self.seen.add(id(value))
            result = value
        else:
            result = self._remake(value)
            self.made[id(value)] = (value, result)
        self.open.pop()
        return result

    def _fill(self, value: list[Any] | dict[Any, Any]) -> None:
        if isinstance(value, dict):
            self._check_keys(value)
            for key, item in value.items():
                value[key] = self.finish(item)
        elif not set(map(type, value)) <= SCALARS:
            value[:] = [self.finish(item) for item in value]

    def _remake(self, value: Any) -> Any:
        if type(value) is tuple:
            return tuple([self.finish(item) for item in value])
        if type(value) is bytearray:
            return bytes(value)
        if type(value) is not ArrayInTheMaking:
            raise pickle.UnpicklingError("it holds a function or a type in the place of data")
        if value.elements is not None:
            array = np.empty(len(value.elements), object)
            for i, element in enumerate(value.elements):
                array[i] = self.finish(element)
            return array.reshape(value.shape)  # numpy lists objects in C's order, whatever the array's
        if value.value is None:
            raise pickle.UnpicklingError("it has an array without content")
        return value.value

    def _check_keys(self, keys: Any) -> None:
        for key in keys:
            if type(key) in (tuple, frozenset):
                self._check_keys(key)
            elif type(key) not in SCALARS:
                raise pickle.UnpicklingError("it has a key or an element of a set that is not plain data")
