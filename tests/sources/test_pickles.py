"""The restricted unpickler: plain data of every Python and numpy come through; hostile and broken files are
refused."""

from __future__ import annotations

import collections
import contextlib
import datetime
import functools
import io
import operator
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from g2d_pipeline.errors import DataError
from g2d_pipeline.sources.pickles import NAMES, load_plain

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def load(content: bytes, folder: Path) -> Any:
    path = folder / "file.pkl"
    path.write_bytes(content)
    return load_plain(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pickles")


# ------------------------------------------------------------------------------------------------- plain data
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(),
    st.binary(),
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.integers(), st.text()), inner, max_size=4),
        st.frozensets(st.integers(), max_size=4),
        st.sets(st.text(), max_size=4),
    ),
    max_leaves=12,
)


@given(PLAIN, st.sampled_from(PROTOCOLS))
@settings(max_examples=150)
def test_plain_data_come_back_as_they_were(folder: Path, value: Any, protocol: int) -> None:
    assert load(pickle.dumps(value, protocol), folder) == value


@given(
    hnp.arrays(
        st.one_of(
            hnp.boolean_dtypes(),
            hnp.integer_dtypes(),
            hnp.floating_dtypes(),
            hnp.complex_number_dtypes(),
            hnp.unicode_string_dtypes(max_len=5),
            hnp.byte_string_dtypes(max_len=5),
        ),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    st.sampled_from(PROTOCOLS),
    st.booleans(),
)
@settings(max_examples=150)
def test_arrays_and_numbers_of_numpy_come_back(
    folder: Path, array: np.ndarray, protocol: int, fortran: bool
) -> None:
    array = np.asfortranarray(array) if fortran else array
    loaded = load(
        pickle.dumps({"a": [array], "t": (array,), "n": array.reshape(-1)[:1].tolist()}, protocol), folder
    )
    for got in (loaded["a"][0], loaded["t"][0]):
        assert type(got) is np.ndarray
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)
    for number in array.reshape(-1)[:1]:
        again = load(pickle.dumps(number, protocol), folder)
        assert type(again) is type(number)
        np.testing.assert_array_equal(again, number)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_objects_with_plain_elements(tmp_path: Path, protocol: int) -> None:
    array = np.empty((2, 2), object)
    array[0, 0], array[0, 1], array[1, 0], array[1, 1] = (
        [1.5, 2],
        "text",
        np.arange(3),
        {"k": (None, np.float32(2))},
    )
    for given_array in (array, np.asfortranarray(array)):
        loaded = load(pickle.dumps(given_array, protocol), tmp_path)
        assert loaded.shape == (2, 2)
        assert loaded[0, 0] == [1.5, 2]
        assert loaded[0, 1] == "text"
        assert loaded[1, 0].tolist() == [0, 1, 2]
        assert loaded[1, 1] == {"k": (None, 2)}


def test_what_is_shared_stays_shared(tmp_path: Path) -> None:
    row, array = [1.0, 2.0], np.arange(3)
    loaded = load(pickle.dumps([row, row, array, (array,)], 4), tmp_path)
    assert loaded[0] is loaded[1]
    assert loaded[2] is loaded[3][0]


def test_an_ordered_dict_is_a_dict_in_its_order(tmp_path: Path) -> None:
    for protocol in PROTOCOLS:
        loaded = load(pickle.dumps(collections.OrderedDict(b=1, a=np.arange(2)), protocol), tmp_path)
        assert type(loaded) is dict
        assert list(loaded) == ["b", "a"]


PYTHON_2 = {
    # cPickle.dumps({'id': 'caf\xe9', u'n': 7L}, 0) and (…, 2)
    "protocol 0": b"(dp1\nS'id'\np2\nS'caf\\xe9'\np3\nsVn\np4\nL7L\ns.",
    "protocol 2": b"\x80\x02}q\x01(U\x02idq\x02U\x04caf\xe9q\x03X\x01\x00\x00\x00nq\x04\x8a\x01\x07u.",
}


@pytest.mark.parametrize("name", PYTHON_2)
def test_strings_of_python_2_are_latin_1(tmp_path: Path, name: str) -> None:
    assert load(PYTHON_2[name], tmp_path) == {"id": "café", "n": 7}


@pytest.mark.parametrize("core", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_arrays_of_python_2_and_of_either_numpy(tmp_path: Path, core: str, order: str) -> None:
    numbers = np.array([[1.5, -2.0], [255.0, 1e300]], order + "f8")
    raw = numbers.tobytes()
    content = (
        b"\x80\x02c" + core.encode() + b"\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        b"(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x04U\x02f8K\x00K\x01\x87Rq\x05(K\x03U\x01"
        + order.encode()
        + b"NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<I", len(raw)) + raw + b"tb."
    )
    loaded = load(content, tmp_path)
    assert loaded.dtype == numbers.dtype
    np.testing.assert_array_equal(loaded, numbers)


def test_a_real_pickle_of_an_old_numpy() -> None:
    path = Path(np.__file__).parent / "_core/tests/data/astype_copy.pkl"
    if not path.is_file():
        pytest.skip("this numpy comes without its test data")
    loaded = load_plain(path)
    np.testing.assert_allclose(loaded[:2], [23.73140116, 23.72649352])


# ---------------------------------------------------------------------------------------------------- hostile
class Calls:
    """An object whose pickle calls `function` with `arguments` when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Point:
    x = 1


def objects(*elements: Any) -> np.ndarray:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


HOSTILE = {
    "posix.system": Calls(os.system, "touch {}"),
    "builtins.eval": Calls(eval, "open({!r}, 'w')"),
    "builtins.exec": Calls(exec, "open({!r}, 'w')"),
    "builtins.getattr": Calls(getattr, Calls(__import__, "os"), "system"),
    "builtins.__import__": Calls(__import__, "subprocess"),
    "io.open": Calls(io.open, "{}", "w"),
    "functools.partial": functools.partial(os.system, "touch {}"),
    "operator.attrgetter": operator.attrgetter("system"),
    "datetime.date": datetime.date(2020, 1, 1),
    "builtins.bytearray": Calls(bytearray, 10**12),
    "builtins.type": Calls(type, "A", (), {}),
    "builtins.print": print,
    "builtins.dict": dict,
    "numpy.load": Calls(np.load, "{}"),
    "numpy.zeros": Calls(np.zeros, 10**12),
    "numpy.ma.core._mareconstruct": np.ma.MaskedArray([1]),
    "collections.Counter": collections.Counter("ab"),
    "collections.deque": collections.deque([1]),
}


@pytest.mark.parametrize("where", ["alone", "in a list", "as an array's element", "as a key"])
@pytest.mark.parametrize("name", HOSTILE)
def test_every_other_name_is_refused_by_name_and_never_called(tmp_path: Path, name: str, where: str) -> None:
    trace = tmp_path / "trace"
    value = HOSTILE[name]
    if isinstance(value, Calls):
        function, arguments = value.call
        value = Calls(function, *[a.format(str(trace)) if isinstance(a, str) else a for a in arguments])
    if where == "as an array's element":
        value = objects(1, value)
    elif where == "as a key":
        if getattr(type(value), "__hash__", None) is None:
            pytest.skip("it can not be a key")
        value = {value: 1}
    elif where != "alone":
        value = [1, value]
    for protocol in PROTOCOLS:
        try:
            content = pickle.dumps(value, protocol)
        except pickle.PicklingError:
            continue
        with pytest.raises(DataError, match="nothing of it is loaded") as caught:
            load(content, tmp_path)
        message = str(caught.value)
        assert str(tmp_path / "file.pkl") in message
        assert "What to do: download the file again" in message
        assert f".{name.rpartition('.')[2]}, which plain data do not need" in message
    assert not trace.exists()


def array_pickle(shape: bytes, raw: bytes, code: bytes = b"f8") -> bytes:
    """A pickle of one array of any claimed shape: `shape` and `raw` are opcodes."""
    return (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R(K\x01" + shape
        + b"cnumpy\ndtype\nU" + bytes([len(code)]) + code + b"\x85R\x89" + raw + b"tb."
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "asks for os.system"),
        (b"\x80\x04\x8c\x08builtins\x94\x8c\x10getattr.__self__\x94\x93.", "builtins.getattr.__self__"),
        (b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__class__x\x93.", "numpy.ndarray.__class__"),
        (b"(i__main__\nPoint\n.", "asks for __main__.Point"),
        (b"(c__main__\nPoint\no.", "asks for __main__.Point"),
        (b"(cnumpy\ndtype\nU\x02f4o.", "function or a type in the place of data"),
        (b"\x80\x02c__main__\nPoint\n)\x81.", "asks for __main__.Point"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "not a pickle of plain data"),
        (b"\x80\x04c__main__\nPoint\n)}\x92.", "asks for __main__.Point"),
        (b"\x80\x04cnumpy\nndarray\n)}\x92.", "not a pickle of plain data"),
        (b"Pid\n.", "opcode PERSID at byte 0"),
        (b"\x80\x02K\x01Q.", "opcode BINPERSID at byte 4"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02\x84\x01\0\0\0.", "opcode EXT4"),
        (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        (b"\x80\x02cnumpy\nndarray\n.", "function or a type in the place of data"),
        (b"\x80\x02]cnumpy\ndtype\na.", "function or a type in the place of data"),
        (b"\x80\x02}cnumpy\ndtype\nK\x01s.", "a key or an element of a set that is not plain"),
        (b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.", "an array of its own size"),
        (b"\x80\x02cnumpy\nndarray\n}U\x05shapeK\x01sb.", "gives a state to a function"),
        (b"\x80\x02cnumpy\ndtype\nN}U\x05_callK\x01s\x86b.", "gives a state to a function"),
        (b"\x80\x02cnumpy\ndtype\nU\x02M8\x85R.", "'M8', which is neither a number nor text"),
        (array_pickle(b"J\xff\xff\xff\x7f\x85", b"C\0", b"S0"), "elements of no bytes"),
        (b"\x80\x02cnumpy\ndtype\nU\x05i4,O8\x85R.", "neither a number nor text"),
        (b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0hex\x86R.", "it encodes by 'hex'"),
        (b"\x80\x02c__builtin__\nset\nU\x02ab\x85R.", "makes a set of a str"),
        (b"\x80\x02c__builtin__\nbytes\nK\x09\x85R.", "not a pickle of plain data"),
        (b"\x80\x04]\x94h\0a.", "a container holds itself"),
        (b"\x80\x04" + b"]" * 60 + b"a" * 59 + b".", "nested deeper than 40"),
        (b"\x80\x04" + b"]" * 2000 + b"a" * 1999 + b".", "nested deeper than 40"),
    ],
)
def test_tricks_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DataError) as caught:
        load(content, tmp_path)
    assert words in str(caught.value)
    assert "file.pkl" in str(caught.value)


LAUGHS: list[Any] = [0.5]
for _ in range(30):
    LAUGHS = [LAUGHS, LAUGHS]

BOMBS = {
    "a dtype of a billion lists": (
        b"\x80\x02cnumpy\ndtype\n" + pickle.dumps(LAUGHS, 2)[2:-1] + b"\x85R.",
        "neither a number nor text",
    ),
    "a length of 2^62 bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.", "goes to byte"),
    "a text of 1 GB": (b"\x80\x02X" + struct.pack("<I", 2**30) + b"abc.", "goes to byte"),
    "a negative length": (b"\x80\x02T\xff\xff\xff\xffabc.", "goes to byte"),
    "a bytearray of 1 GB": (b"\x80\x05\x96" + struct.pack("<Q", 2**30) + b"abc.", "goes to byte"),
    "a frame of 1 GB": (b"\x80\x04\x95" + struct.pack("<Q", 2**30) + b"N.", "goes to byte"),
    "memo index 2^31": (b"\x80\x02Nr" + struct.pack("<I", 2**31) + b".", "2147483648 memo entries"),
    "memo index 10^12": (b"Np1000000000000\n.", "1000000000000 memo entries"),
    "an array of 8 TB": (array_pickle(b"\x8a\x06\0\0\0\0\0\x01\x85", b"C\x08abcdefgh"), "and holds 8"),
    "an array of a negative size": (array_pickle(b"J\xff\xff\xff\xff\x85", b"C\0"), "shape is (-1,)"),
    "an array of 10^9 objects": (
        array_pickle(b"J\0\xca\x9a\x3b\x85", b"]K\x01a", b"O8"),
        "does not hold 1000000000",
    ),
    "an array of objects from bytes": (
        array_pickle(b"K\x01\x85", b"C\x08abcdefgh", b"O8"),
        "does not hold 1",
    ),
    "an array of functions": (
        array_pickle(b"K\x01\x85", b"]cnumpy\ndtype\na", b"O8"),
        "in the place of data",
    ),
    "an array of texts of 1 GB": (
        array_pickle(b"K\x01\x85", b"C\0", b"S999999999"),
        "neither a number nor text",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_file_gets_more_memory_than_it_holds(tmp_path: Path, name: str) -> None:
    content, words = BOMBS[name]
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            load(content, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert words in str(caught.value)
    assert peak < 20 * 2**20


def test_a_laugh_a_billion_times_over_is_scanned_once(tmp_path: Path) -> None:
    loaded = load(pickle.dumps(LAUGHS, 4), tmp_path)
    assert loaded[0] is loaded[1]


def test_no_file_changes_what_a_name_stands_for() -> None:
    for name in NAMES.values():
        with pytest.raises(pickle.UnpicklingError):
            name.anything = 1
        assert not hasattr(name, "__dict__")


# ----------------------------------------------------------------------------------------------------- broken
WHOLE = pickle.dumps({"a": list(range(300)), "b": "text", "c": np.arange(4.0)}, 4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty (0 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 99\n", "Git-LFS pointer"),
        (b"<!DOCTYPE html><title>Quota exceeded</title>", "web page (HTML)"),
        (b"PK\x03\x04rest", "zip archive: unpack it"),
        (b"\x1f\x8brest", "compressed with gzip"),
        (b"\x93NUMPY\x01\0", "a .npy array"),
        (WHOLE[:-1], "is truncated"),
        (WHOLE[: len(WHOLE) // 2], "is truncated"),
        (WHOLE[:3], "is truncated"),
        (WHOLE + WHOLE, "bytes behind the end"),
        (b"label,id\n1,0\n", "is no pickle"),
        (b"\x80\x09N.", "unsupported pickle protocol: 9"),
        (b"\x80\x02a.", "not a pickle of plain data"),
        (b"I12x\n.", "not a pickle of plain data"),
        (b"L" + b"9" * 5000 + b"L\n.", "not a pickle of plain data"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DataError) as caught:
        load(content, tmp_path)
    assert words in str(caught.value)
    assert "file.pkl" in str(caught.value)


def test_missing_folders_and_files_over_the_limit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.pkl is missing"):
        load_plain(tmp_path / "absent.pkl")
    with pytest.raises(DataError, match="is a folder"):
        load_plain(tmp_path)
    (tmp_path / "big.pkl").write_bytes(WHOLE)
    with pytest.raises(DataError, match=r"big\.pkl is too large"):
        load_plain(tmp_path / "big.pkl", largest=100)


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@example([(0, 0)])
@settings(max_examples=400)
def test_a_damaged_file_is_refused_or_gives_plain_data(folder: Path, damage: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE)
    for place, byte in damage:
        content[place] = byte
    with contextlib.suppress(DataError):
        pickle.dumps(load(bytes(content), folder))


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_any_bytes_are_refused_or_give_plain_data(folder: Path, content: bytes) -> None:
    with contextlib.suppress(DataError):
        pickle.dumps(load(b"\x80\x04" + content + b".", folder))
