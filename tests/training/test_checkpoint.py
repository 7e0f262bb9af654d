"""Checkpoints: the same bits and strides come back, a kill or a full disk costs one checkpoint and never
two."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import signal
import struct
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn, optim

from g2d_pipeline.training import checkpoint
from g2d_pipeline.training.checkpoint import AS_BYTES, CODES, UNFINISHED, Checkpoints, flatten, unflatten

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
SMALL = {"weights": torch.arange(6.0).reshape(2, 3), "epoch": 3, "history": [{"loss": 0.5}]}


def raw(tensor: Tensor) -> bytes:
    """The elements in row order, as bytes."""
    return tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()


def same(a: Any, b: Any) -> bool:
    """Same types, structure, order of keys and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return struct.pack("d", a) == struct.pack("d", b) if isinstance(a, float) else a == b


def round_trip(state: dict[str, Any]) -> Any:
    """Through a file."""
    with tempfile.TemporaryDirectory() as folder:
        assert Checkpoints(Path(folder)).save(state, 1, 2) is not None
        return Checkpoints(Path(folder)).newest()


# --------------------------------------------------------------------------------------------- the round trip
DTYPES = sorted(CODES.keys() | AS_BYTES, key=str)
NUMPY_DTYPES = ["?", "u1", "<i8", ">i4", "<f2", "<f8", ">f4", "<c16", "<U3", "S2", "<M8[ns]", "<m8[s]"]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any bits in any dtype, shape (0-dim and empty too) and order of the dimensions, at times with holes."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    size = math.prod(shape) * dtype.itemsize
    content = draw(st.binary(min_size=size, max_size=size))
    if dtype is torch.bool:
        content = bytes(byte % 2 for byte in content)
    flat = torch.frombuffer(bytearray(content), dtype=dtype) if size else torch.empty(0, dtype=dtype)
    tensor = flat.reshape(shape).permute(draw(st.permutations(range(len(shape)))))
    return tensor[::2] if shape and draw(st.booleans()) else tensor


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    dtype = np.dtype(draw(st.sampled_from(NUMPY_DTYPES)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    numbers = draw(st.lists(st.integers(0, 99), min_size=math.prod(shape), max_size=math.prod(shape)))
    array = np.array(numbers, dtype=np.int64).astype(dtype).reshape(shape)
    return array[()] if draw(st.booleans()) else array.T  # of an array without dimensions: a scalar


FLOATS = st.floats() | st.binary(min_size=8, max_size=8).map(lambda b: struct.unpack("<d", b)[0])
TEXT = st.text(st.characters(exclude_categories=()), max_size=5) | st.sampled_from(
    ["$tuple", "$", "", "\ud83d\ude00"]
)
SCALARS = st.none() | st.booleans() | st.integers() | FLOATS | TEXT | st.binary(max_size=5)
KEYS = st.booleans() | st.integers() | TEXT | st.floats(allow_nan=False) | st.none() | st.binary(max_size=3)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = st.lists(inner, max_size=4)
    dicts = st.dictionaries(TEXT, inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)
    return items | items.map(tuple) | dicts | dicts.map(OrderedDict)


NESTED = st.recursive(SCALARS | tensors() | arrays(), containers, max_leaves=12)


@settings(max_examples=40, derandomize=True)
@given(st.dictionaries(TEXT, NESTED, max_size=4))
def test_nested_data_comes_back_with_the_same_types_and_bits(state: dict[str, Any]) -> None:
    assert same(round_trip(state), state)


@settings(max_examples=40, derandomize=True)
@given(tensors())
def test_dense_tensors_keep_their_strides_and_others_come_back_contiguous(tensor: Tensor) -> None:
    back = round_trip({"t": tensor})["t"]
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    is_dense = tensor.numel() in (0, reach)
    assert back.stride() == tensor.stride() if is_dense else back.is_contiguous()
    assert back.untyped_storage().nbytes() == tensor.numel() * tensor.dtype.itemsize


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype: torch.dtype) -> None:
    state = {"t": torch.tensor([0, 1, 1, 0]).to(dtype).reshape(2, 2), "scalar": torch.ones(()).to(dtype)}
    assert same(round_trip(state), state)


def test_channels_last_and_aliases() -> None:
    weight = torch.randn(4, 3, 2, 5).to(memory_format=torch.channels_last)
    state = {"a": weight, "b": weight, "part": weight[:, :1], "broad": torch.ones(1, 3).expand(5, 3)}
    back = round_trip(state)
    assert same(back, state)
    assert back["a"].stride() == weight.stride()
    assert back["a"].is_contiguous(memory_format=torch.channels_last)
    assert back["part"].is_contiguous()
    assert back["broad"].stride() == (3, 1)
    back["a"].zero_()
    assert same(back["b"], weight)


def test_lazy_conjugates_and_gradients_are_resolved() -> None:
    z = torch.tensor([1 + 2j, 3 - 4j], requires_grad=True)
    back = round_trip({"conj": z.conj(), "imag": z.conj().imag, "one": z[:1].conj().imag})
    assert back["conj"].tolist() == [1 - 2j, 3 + 4j]
    assert back["imag"].tolist() == [-2.0, 4.0]
    assert back["one"].tolist() == [-2.0]
    assert not back["conj"].requires_grad


def test_arrays_come_back_writable() -> None:
    fixed = np.arange(4)
    fixed.flags.writeable = False
    with warnings.catch_warnings(action="error"):  # torch warns of memory that must not be written to
        back = round_trip({"a": fixed})["a"]
    back += 1
    assert back.tolist() == [1, 2, 3, 4]


def test_the_states_of_random_generators() -> None:
    generator = np.random.default_rng(3)
    state = {
        "numpy": generator.bit_generator.state,
        "torch": torch.get_rng_state(),
        "old": np.random.RandomState(1),
    }
    state["old"] = state["old"].get_state()
    back = round_trip(state)
    expected = generator.normal(size=5)
    generator.bit_generator.state = back["numpy"]
    assert np.array_equal(generator.normal(size=5), expected)
    assert same(back, state)


def test_a_long_history_of_several_megabytes() -> None:
    row = {f"grad_norm/modality_{i}": i / 7 for i in range(100)} | {"phase": 1, "text": "naïve"}
    state = {"history": [row | {"epoch": epoch} for epoch in range(300)]}
    assert len(flatten(state)[1]) > 1e6
    assert same(round_trip(state), state)


def test_pure_functions_are_inverse_and_share_memory() -> None:
    taken, structure = flatten(SMALL)
    assert [t.data_ptr() for t in taken.values()] == [SMALL["weights"].data_ptr()]
    assert same(unflatten(structure, taken.__getitem__), SMALL)
    assert json.loads(structure)["history"] == SMALL["history"]


def test_others_can_read_the_file(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(SMALL | {"half": torch.ones(3, dtype=torch.bfloat16)}, 3, 120)
    assert path is not None
    assert path.name.startswith("epoch-0003-batch-000120-")
    content = load_file(path)
    assert same(content['0 state["weights"]'], SMALL["weights"])
    assert same(content['1 state["half"]'], torch.ones(3, dtype=torch.bfloat16))


class Odd(dict[str, int]):
    """Not exactly a dict."""


@pytest.mark.parametrize(
    ("state", "path", "kind"),
    [
        ({"method": {"running": lambda: 0}}, 'state["method"]["running"]', "function"),
        ({"m": [1, nn.Linear(1, 1)]}, 'state["m"][1]', "Linear"),
        ({"g": (torch.Generator(),)}, 'state["g"][0]', "Generator"),
        ({"g": {3: np.random.default_rng()}}, 'state["g"][3]', "Generator"),
        ({"p": nn.Parameter(torch.ones(1))}, 'state["p"]', "Parameter"),
        ({"t": torch.eye(2).to_sparse()}, 'state["t"]', "Tensor of torch.float32 (torch.sparse_coo, cpu)"),
        ({"t": torch.empty(2, device="meta")}, 'state["t"]', "Tensor of torch.float32 (torch.strided, meta)"),
        ({"a": np.array([None])}, 'state["a"]', "ndarray of object"),
        ({"d": Odd(a=1)}, 'state["d"]', "Odd"),
        ({"s": {1}}, 'state["s"]', "set"),
        ({"k": {(1, 2): 3}}, 'state["k"]', "tuple"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value),
)
def test_what_cannot_be_saved_is_named(tmp_path: Path, state: dict[str, Any], path: str, kind: str) -> None:
    with pytest.raises(TypeError) as caught:
        Checkpoints(tmp_path).save(state, 1, 1)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(f"not {kind}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_of_a_gpu_come_back_on_the_cpu() -> None:
    weight = torch.randn(4, 3, 2, 5, device="cuda").to(memory_format=torch.channels_last)
    back = round_trip({"w": weight})["w"]
    assert same(back, weight.cpu())
    assert back.stride() == weight.stride()


# ------------------------------------------------------------------------------------------------- optimizers
def steps(model: nn.Module, optimizer: optim.Optimizer, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 6, 6, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    "build",
    [
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
        lambda p: optim.Adam(p, lr=0.01),
        lambda p: optim.AdamW(p, lr=torch.tensor(0.01), fused=True),
    ],
    ids=["sgd", "adam", "fused adamw"],
)
def test_an_optimizer_takes_identical_next_steps(build: Callable[[Any], optim.Optimizer]) -> None:
    def fresh(seed: int) -> tuple[nn.Module, optim.Optimizer]:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
        model = model.to(memory_format=torch.channels_last)
        return model, build(model.parameters())

    model, optimizer = fresh(0)
    steps(model, optimizer, 3, seed=1)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    back = round_trip(state)
    assert same(back, state)
    resumed, resumed_optimizer = fresh(5)
    resumed.load_state_dict(back["model"])
    resumed_optimizer.load_state_dict(back["optimizer"])
    steps(model, optimizer, 3, seed=2)
    steps(resumed, resumed_optimizer, 3, seed=2)
    assert same(resumed.state_dict(), model.state_dict())
    assert same(resumed_optimizer.state_dict(), optimizer.state_dict())


# --------------------------------------------------------------------------------------------- which are kept
def numbered(n: int) -> dict[str, Any]:
    return {"n": n, "weights": torch.full((3,), float(n))}


def filled(folder: Path, places: list[tuple[int, int]], keep: int = 2) -> list[Path]:
    """Save `numbered(0)`, `numbered(1)`, … at these places."""
    checkpoints = Checkpoints(folder, keep=keep)
    paths = [checkpoints.save(numbered(n), *place) for n, place in enumerate(places)]
    return [path for path in paths if path is not None]


def whole(folder: Path) -> list[Path]:
    """The checkpoints in the folder that can be read, oldest first."""
    found = []
    for file in sorted(folder.glob("epoch-*")):
        checkpoint.check_file(file)
        found.append(file)
    return found


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    assert Checkpoints(folder).newest() is None
    paths = filled(folder, [(1, 0), (1, 50), (2, 0), (10, 0)])
    assert sorted(folder.iterdir()) == paths[2:]
    checkpoints = Checkpoints(folder)
    assert same(checkpoints.newest(), numbered(3))
    assert checkpoints.last == paths[3]


def test_places_are_ordered_as_numbers(tmp_path: Path) -> None:
    filled(tmp_path, [(9999, 999_999), (9999, 1_000_000), (10_000, 5)], keep=3)
    assert same(Checkpoints(tmp_path).newest(), numbered(2))


def test_later_places_of_a_given_up_training_go(tmp_path: Path) -> None:
    filled(tmp_path, [(5, 0), (6, 0)])
    Checkpoints(tmp_path).save(numbered(7), 1, 0)
    assert len(list(tmp_path.iterdir())) == 1
    assert same(Checkpoints(tmp_path).newest(), numbered(7))


def test_broken_ones_do_not_count_among_the_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    oldest, middle, newest = filled(tmp_path, [(1, 0), (2, 0), (3, 0)], keep=3)
    for broken in (middle, newest):
        broken.write_bytes(b"")
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert same(checkpoints.newest(), numbered(0))
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2
    for record, broken in zip(caplog.records, (newest, middle), strict=True):
        assert f"{broken} is not used: it is empty (0 bytes); {oldest.name} is used" in record.getMessage()
    saved = checkpoints.save(numbered(9), 2, 0)
    assert whole(tmp_path) == [oldest, saved]
    assert len(list(tmp_path.iterdir())) == 2


def test_unverified_ones_are_checked_before_they_count(tmp_path: Path) -> None:
    first, second, third = filled(tmp_path, [(1, 0), (2, 0), (3, 0)], keep=3)
    second.write_bytes(second.read_bytes()[:-1])
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert same(checkpoints.newest(), numbered(2))
    saved = checkpoints.save(numbered(3), 4, 0)
    assert sorted(tmp_path.iterdir()) == [first, third, saved]


def test_keep_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep = 0"):
        Checkpoints(tmp_path, keep=0)


def test_foreign_and_unfinished_files(tmp_path: Path) -> None:
    foreign = tmp_path / "epoch-0009-batch-000000.safetensors"
    foreign.write_bytes(b"x")
    (tmp_path / UNFINISHED).write_bytes(b"x")
    checkpoints = Checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == [foreign]
    (tmp_path / UNFINISHED).write_bytes(b"x" * 100_000)
    saved = checkpoints.save(SMALL, 1, 1)
    assert sorted(tmp_path.iterdir()) == sorted([foreign, saved])
    assert same(checkpoints.newest(), SMALL)


# ----------------------------------------------------------------------------------------------------- damage
@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, bytes]:
    """The second of two checkpoints and its bytes; the older one is whole."""
    *_, second = filled(tmp_path, [(1, 0), (2, 0)])
    return second, second.read_bytes()


def falls_back(second: Path, caplog: pytest.LogCaptureFixture, reason: str) -> bool:
    """Whether `newest` gives the older one and says why."""
    caplog.clear()
    state = Checkpoints(second.parent).newest()
    return same(state, numbered(0)) and [reason in r.getMessage() for r in caplog.records] == [True]


def test_every_flipped_byte_is_noticed(two: tuple[Path, bytes], caplog: pytest.LogCaptureFixture) -> None:
    second, content = two
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        second.write_bytes(damaged)
        assert falls_back(second, caplog, f"its {len(content)} bytes do not match the checksum"), position
    second.write_bytes(content)
    assert same(Checkpoints(second.parent).newest(), numbered(1))


def test_truncation_is_noticed(two: tuple[Path, bytes], caplog: pytest.LogCaptureFixture) -> None:
    second, content = two
    for length in (1, 7, 8, 9, len(content) // 2, len(content) - 1):
        second.write_bytes(content[:length])
        assert falls_back(second, caplog, f"its {length} bytes do not match"), length
    second.write_bytes(content + b"\0")
    assert falls_back(second, caplog, "do not match")
    second.write_bytes(b"")
    assert falls_back(second, caplog, "it is empty (0 bytes)")


def test_a_folder_in_a_checkpoints_place(two: tuple[Path, bytes], caplog: pytest.LogCaptureFixture) -> None:
    second, _ = two
    second.unlink()
    second.mkdir()
    assert falls_back(second, caplog, "it cannot be read")


def renamed_to_its_checksum(path: Path, content: bytes) -> None:
    """Put another content, with the right checksum, in the checkpoint's place."""
    path.unlink()
    digest = checkpoint.hashlib.sha256(content).hexdigest()[:32]
    path.with_name(f"epoch-0002-batch-000000-{digest}.safetensors").write_bytes(content)


def test_another_format_is_not_read(two: tuple[Path, bytes], caplog: pytest.LogCaptureFixture) -> None:
    second, content = two
    assert content.count(b'"g2d_checkpoint": "3"') == 1
    renamed_to_its_checksum(second, content.replace(b'"g2d_checkpoint": "3"', b'"g2d_checkpoint": "4"'))
    assert falls_back(second, caplog, "its format is 4, and this version of g2d_pipeline reads 3 only")


def test_what_is_no_safetensors_file_is_not_read(
    two: tuple[Path, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    renamed_to_its_checksum(two[0], b"nonsense" * 9)
    assert falls_back(two[0], caplog, "it is not a safetensors file")


def test_training_starts_anew_where_nothing_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for place in ((1, 0), (2, 0)):
        path = checkpoints.save(SMALL, *place)
        assert path is not None
        path.write_bytes(path.read_bytes()[1:])
    assert checkpoints.newest() is None
    assert checkpoints.last is None
    assert ["training starts anew" in r.getMessage() for r in caplog.records] == [True, True]
    saved = checkpoints.save(SMALL, 3, 0)
    assert list(tmp_path.iterdir()) == [saved]


# ------------------------------------------------------------------------------------------------------ kills
def in_child(work: Callable[[], str]) -> tuple[int, str]:
    """Run `work` in a forked process; its exit status (negative: the signal) and what it returned or
    raised."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(20)
            os.write(writer, work().encode())
            status = 0
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def killed_at_line(number: int) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that ends the process, as kill -9 does, at the n-th line it meets of writing and
    pruning."""
    seen: set[int] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if code.co_filename != checkpoint.__file__ or code.co_name not in (
            "save",
            "_write",
            "write_tensors",
            "_prune",
        ):
            return None
        if event == "line":
            seen.add(frame.f_lineno)
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


@needs_fork
def test_a_kill_at_any_line_of_a_save_leaves_whole_checkpoints(tmp_path: Path) -> None:
    before = tmp_path / "before"
    filled(before, [(1, 0), (2, 0)])
    old = {file.name for file in before.iterdir()}
    left_behind = set()
    for number in range(1, 1000):
        folder = tmp_path / str(number)
        shutil.copytree(before, folder)

        def save(folder: Path = folder, number: int = number) -> str:
            checkpoints = Checkpoints(folder)
            sys.settrace(killed_at_line(number))
            return checkpoints.save(numbered(9), 3, 0).name

        status, text = in_child(save)
        names = {file.name for file in folder.iterdir()}
        new = {name for name in names if name.startswith("epoch-0003")}
        left_behind.add((UNFINISHED in names, len(new), len(names & old)))
        checkpoints = Checkpoints(folder)
        assert UNFINISHED not in {file.name for file in folder.iterdir()}
        assert same(checkpoints.newest(), numbered(9 if new else 1)), number
        assert len(whole(folder)) >= 2
        saved = checkpoints.save(numbered(10), 3, 1)
        assert whole(folder)[-1] == saved
        assert len(list(folder.iterdir())) == 2
        if status == 0:
            assert new == {text}
            break
        assert status == -signal.SIGKILL, text
    # before the write, while writing, between rename and removal, after the removal
    assert left_behind == {(False, 0, 2), (True, 0, 2), (False, 1, 2), (False, 1, 1)}


# -------------------------------------------------------------------------------------------------- full disk
def refused(folder: Path, state: dict[str, Any], epoch: int) -> str:
    """Save where it cannot succeed; the warnings. For a child process."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    checkpoint.logger.addHandler(handler)
    checkpoints = Checkpoints(folder)
    checkpoints.newest()
    last = checkpoints.last
    assert checkpoints.save(state, epoch, 0) is None
    assert checkpoints.last == last
    assert not checkpoints.due()  # not tried again at the next batch
    return json.dumps(messages)


@needs_fork
@pytest.mark.parametrize("limit", [0, 100, 300_000, 4_000_000], ids=str)
def test_a_full_disk_costs_one_checkpoint(tmp_path: Path, limit: int) -> None:
    resource = pytest.importorskip("resource")
    older = filled(tmp_path, [(1, 0), (2, 0)])
    content = [path.read_bytes() for path in older]

    def work() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return refused(tmp_path, {"weights": torch.zeros(1_000_000)}, 3)

    status, text = in_child(work)
    assert status == 0, text
    (message,) = json.loads(text)
    for part in (
        "epoch 3, batch 0",
        os.strerror(errno.EFBIG),
        "4.0 MB",
        f"{older[1].name} remains. Training goes on",
    ):
        assert part in message
    assert sorted(tmp_path.iterdir()) == older
    assert [path.read_bytes() for path in older] == content


@needs_fork
def test_a_forbidden_folder_costs_one_checkpoint() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)

        def work() -> str:
            if os.getuid() == 0:  # root may write everywhere
                os.setuid(65534)
            return refused(folder, SMALL, 1)

        status, text = in_child(work)
        assert status == 0, text
        (message,) = json.loads(text)
        assert os.strerror(errno.EACCES) in message
        assert "No checkpoint remains" in message
        assert list(folder.iterdir()) == []


def test_other_errors_propagate(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError):
        Checkpoints(tmp_path / "file").save(SMALL, 1, 1)


# ------------------------------------------------------------------------------------------------------- time
def test_when_a_checkpoint_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    write = Checkpoints._write

    def slow(self: Checkpoints, *arguments: Any) -> Path:
        now[0] += 2.0  # seconds that the write takes
        return write(self, *arguments)

    monkeypatch.setattr(Checkpoints, "_write", slow)
    checkpoints = Checkpoints(tmp_path, minutes=10)
    assert checkpoints.due_at_epoch_end()
    assert not checkpoints.due()
    now[0] = 699.9
    assert not checkpoints.due()
    now[0] = 700.0
    assert checkpoints.due()
    checkpoints.save(SMALL, 1, 1)
    assert checkpoints.seconds == 2.0
    assert not checkpoints.due()
    now[0] = 702.0 + 99.9
    assert not checkpoints.due_at_epoch_end()
    now[0] = 702.0 + 100.0
    assert checkpoints.due_at_epoch_end()
    assert not checkpoints.due()
    now[0] = 702.0 + 600.0
    assert checkpoints.due()
