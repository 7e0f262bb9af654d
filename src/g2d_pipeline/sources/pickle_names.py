"""What the few names that a pickle of plain data needs stand for: functions that check what they are given.

A file can call them and nothing else; it can neither change them nor make an array larger than the bytes it
holds."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

KINDS = re.compile(r"[biuf](1|2|4|8|16)|c(8|16)|[SU][0-9]{1,6}|O[48]?")


class _Name:
    """What a name in the file stands for. It keeps no state and accepts none, so that no file can change it."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it sets {name!r} of a function")

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("it gives a state to a function")


class DTypeInTheMaking:
    """A dtype of numpy in the making: its code, then its byte order."""

    __slots__ = ("value",)

    def __init__(self, value: np.dtype[Any]) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        """`state`: (version, byte order, subarray, names, fields, size, alignment, flags) as numpy writes it."""
        if len(state) != 8 or any(part is not None for part in state[2:5]) or state[1] not in tuple("<>=|"):
            raise pickle.UnpicklingError(
                f"it has a dtype that is not plain: {self.value.str!r} with {state!r}"
            )
        if state[5] not in (-1, self.value.itemsize):
            raise pickle.UnpicklingError(f"its dtype {self.value.str!r} declares {state[5]!r} bytes")
        if state[1] in "<>":
            self.value = self.value.newbyteorder(state[1])


class ArrayInTheMaking:
    """An array of numpy in the making: `value` [shape]; where `elements` are given, they are not yet in it."""

    __slots__ = ("elements", "shape", "value")

    def __init__(self) -> None:
        self.value: npt.NDArray[Any] | None = None
        self.elements: list[Any] | None = None
        self.shape: tuple[int, ...] = ()

    def __setstate__(self, state: Any) -> None:
        """`state`: (version, shape, dtype, whether Fortran's order, bytes or the list of elements)."""
        if len(state) != 5:
            raise pickle.UnpicklingError(f"an array's state has {len(state)} parts instead of 5")
        _, self.shape, dtype, fortran, raw = state
        if not isinstance(self.shape, tuple) or not all(type(n) is int and n >= 0 for n in self.shape):
            raise pickle.UnpicklingError(f"an array's shape is {self.shape!r}")
        if not isinstance(dtype, DTypeInTheMaking):
            raise pickle.UnpicklingError("an array has no dtype")
        count = math.prod(self.shape)
        if dtype.value.hasobject:
            if type(raw) is not list or len(raw) != count:
                raise pickle.UnpicklingError(
                    f"an array of objects of shape {self.shape} does not hold {count}"
                )
            self.elements = raw
            return
        if not dtype.value.itemsize and count:
            raise pickle.UnpicklingError(f"an array {self.shape} has elements of no bytes")
        raw = _raw(raw)
        if count * dtype.value.itemsize != len(raw):
            promised = count * dtype.value.itemsize
            raise pickle.UnpicklingError(
                f"an array {self.shape} promises {promised} bytes and holds {len(raw)}"
            )
        order = "F" if fortran else "C"
        self.value = np.frombuffer(raw, dtype.value).reshape(self.shape, order=order)  # type: ignore[call-overload]
        self.value.flags.writeable = False


def _raw(raw: Any) -> bytes | bytearray:
    """An array's bytes; Python 2 wrote a string."""
    if type(raw) is str:
        return raw.encode("latin-1")
    if type(raw) is bytes or type(raw) is bytearray:
        return raw
    raise pickle.UnpicklingError(f"an array's content is of type {type(raw).__name__}")


def _dtype(code: Any, align: Any = False, copy: Any = True) -> DTypeInTheMaking:
    if type(code) is not str or not KINDS.fullmatch(code):
        raise pickle.UnpicklingError(f"it has an array of dtype {code!r}, which is neither a number nor text")
    return DTypeInTheMaking(np.dtype(code))


def _reconstruct(kind: Any, shape: Any, code: Any) -> ArrayInTheMaking:
    if kind is not NDARRAY or shape != (0,):
        raise pickle.UnpicklingError("it makes an array of an unknown class or size")
    return ArrayInTheMaking()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> ArrayInTheMaking:
    array = ArrayInTheMaking()
    array.__setstate__((1, shape, dtype, order == "F", raw))
    if array.elements is not None:
        raise pickle.UnpicklingError("it has objects in a buffer")
    return array


def _scalar(dtype: Any, raw: Any) -> Any:
    """One number of numpy."""
    if (
        not isinstance(dtype, DTypeInTheMaking)
        or dtype.value.hasobject
        or len(content := _raw(raw)) != dtype.value.itemsize
    ):
        raise pickle.UnpicklingError("it has a number of an unknown kind")
    return np.frombuffer(content, dtype.value)[0] if content else dtype.value.type()


def _encode(text: Any, codec: Any) -> bytes:
    """How Python 3 writes bytes in protocols 0 to 2."""
    if type(text) is not str or codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes by {codec!r}")
    return text.encode("latin-1")


def _not_callable(*arguments: Any) -> NoReturn:
    raise pickle.UnpicklingError("it makes an array of its own size")


def _empty_bytes() -> bytes:
    return b""


def _of_items(build: Callable[[Any], Any]) -> Callable[..., Any]:
    """`build` of one list or tuple, or of nothing."""

    def make(items: Any = ()) -> Any:
        if type(items) not in (list, tuple):
            raise pickle.UnpicklingError(f"it makes a {build.__name__} of a {type(items).__name__}")
        return build(items)

    return make


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise pickle.UnpicklingError("it makes a complex number of something else")
    return complex(real, imaginary)


NDARRAY = _Name(_not_callable)
NAMES: dict[tuple[str, str], _Name] = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): _Name(_dtype),
    ("_codecs", "encode"): _Name(_encode),
    ("collections", "OrderedDict"): _Name(_of_items(dict)),
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1, numpy 2
    NAMES[f"{_core}.multiarray", "_reconstruct"] = _Name(_reconstruct)
    NAMES[f"{_core}.multiarray", "scalar"] = _Name(_scalar)
    NAMES[f"{_core}.numeric", "_frombuffer"] = _Name(_frombuffer)
for _builtins in (
    "builtins",
    "__builtin__",
):  # Python 3, Python 2: protocols below 4 have no opcodes for these
    NAMES[_builtins, "bytes"] = _Name(_empty_bytes)
    NAMES[_builtins, "complex"] = _Name(_complex)
    NAMES[_builtins, "set"] = _Name(_of_items(set))
    NAMES[_builtins, "frozenset"] = _Name(_of_items(frozenset))
