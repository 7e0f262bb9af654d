"""The checkpoints of one training run: nested plain data in safetensors files, whole or not there at all.

A file holds the tensors and, as UTF-8 in a tensor of bytes named `structure`, the JSON of everything else.
Its name carries the place in the training and the checksum of its bytes: one rename publishes both."""

import errno
import hashlib
import io
import json
import logging
import math
import os
import re
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from g2d_pipeline.errors import DataError

logger = logging.getLogger(__name__)

FORMAT = "3"  # of the files; another one is not read
FILE_NAME = re.compile(r"epoch-(\d+)-batch-(\d+)-([0-9a-f]{32})\.safetensors")
UNFINISHED = "unfinished.tmp"
NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
SHARE = 50  # checkpoints at the ends of epochs take at most 1/50 of the time

CODES = {torch.bfloat16: "BF16", torch.bool: "BOOL", torch.float64: "F64", torch.float32: "F32"}
CODES |= {torch.float16: "F16", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"}
CODES |= {torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8"}
# Saved as bytes, for not every version of safetensors knows them.
AS_BYTES = {torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2}
AS_BYTES |= {torch.float8_e5m2fnuz, torch.float8_e8m0fnu}
NUMPY_KINDS = "biufcmMUS"  # all but objects and records


class BrokenCheckpoint(DataError):
    """A checkpoint's file is damaged, unreadable or of another format: `newest` takes the one before."""


class Stateful:
    """Its state in checkpoints are the attributes `state_names`; sets are stored as sorted lists."""

    state_names: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.state_names}
        return {name: sorted(v) if isinstance(v, set) else v for name, v in values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, set(value) if isinstance(getattr(self, name), set) else value)


class Checkpoints:
    """Checkpoints of one training run in `folder`, the last `keep` of them.

    The folder belongs to one process (of a distributed training: the first one), which asks for `newest`
    before it saves. `last`: the newest whole checkpoint known; `seconds`: of the latest attempt to save."""

    def __init__(self, folder: Path, minutes: float = 10.0, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep = {keep}: at least one checkpoint has to be kept")
        self.folder, self.minutes, self.keep = folder, minutes, keep
        self.last: Path | None = None
        self.seconds: float | None = None
        self._ended = time.monotonic()
        self._whole: set[Path] = set()  # written or checked by this process
        self._drop_unfinished()

    def save(self, state: dict[str, Any], epoch: int, batch: int) -> Path | None:
        """Write `state` as the checkpoint of this place, then remove all but the last `keep` whole ones.

        Files of a later place go too: training went back behind them. Returns None, after a warning, where
        the disk is full or may not be written to. Raises TypeError with the path of what cannot be saved."""
        begin = time.monotonic()
        try:
            tensors = _with_structure(state)
            saved = self._write(tensors, f"epoch-{epoch:04d}-batch-{batch:06d}")
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._drop_unfinished()
            size = sum(t.nbytes for t in tensors.values()) / 1e6
            remaining = f"The checkpoint {self.last.name}" if self.last else "No checkpoint"
            logger.warning(
                "The checkpoint of epoch %d, batch %d was not written to %s (%s; %.1f MB were wanted). %s "
                "remains. Training goes on without this one.",
                *(epoch, batch, self.folder, error.strerror, size, remaining),
            )
            return None
        else:
            self.last = saved
            self._prune(saved)
            return saved
        finally:  # after a failure too: a full disk is not tried again at every batch
            self._ended = time.monotonic()
            self.seconds = self._ended - begin

    def newest(self) -> dict[str, Any] | None:
        """The state of the newest whole checkpoint (on the CPU), or None; warns of broken ones."""
        self.last, state, faults = None, None, {}
        for file in self._files():
            try:
                state, self.last = read_file(file), file
                self._whole.add(file)
                break
            except BrokenCheckpoint as fault:
                faults[file] = str(fault)
                self._whole.discard(file)
        otherwise = "there is no other: training starts anew"
        consequence = f"{self.last.name} is used instead" if self.last is not None else otherwise
        for file, reason in faults.items():
            logger.warning("The checkpoint %s is not used: %s; %s.", file, reason, consequence)
        return state

    def due(self) -> bool:
        """Whether `minutes` have passed since the last attempt to save, or since construction."""
        return time.monotonic() - self._ended >= 60 * self.minutes

    def due_at_epoch_end(self) -> bool:
        """Whether training has gone on for `SHARE` times as long as the last attempt to save took."""
        return self.seconds is None or time.monotonic() - self._ended >= SHARE * self.seconds

    def _files(self) -> list[Path]:
        """The checkpoints by their names, newest first."""
        files = [f for f in self.folder.glob("*") if FILE_NAME.fullmatch(f.name)]
        return sorted(files, key=place, reverse=True)

    def _write(self, tensors: dict[str, Tensor], name: str) -> Path:
        """Write a checkpoint; it exists from the rename on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / UNFINISHED
        with unfinished.open("wb") as file:
            digest = write_tensors(file, tensors)
            file.flush()
            os.fsync(file.fileno())
        path = self.folder / f"{name}-{digest}.safetensors"
        unfinished.replace(path)
        self._whole.add(path)
        if os.name == "posix":  # elsewhere folders cannot be opened
            descriptor = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return path

    def _prune(self, saved: Path) -> None:
        """Remove all files but `saved` and the whole ones of earlier places among the last `keep`."""
        kept = 1
        for file in self._files():
            if place(file)[:2] < place(saved)[:2] and kept < self.keep:
                with suppress(BrokenCheckpoint):
                    if file not in self._whole:
                        check_file(file)
                    self._whole.add(file)
                    kept += 1
                    continue
            if file != saved:
                file.unlink()

    def _drop_unfinished(self) -> None:
        with suppress(OSError):  # it is never read, and the next save writes over it
            (self.folder / UNFINISHED).unlink()


# -------------------------------------------------------------------------------------------------- the files
def place(file: Path) -> tuple[int, int, str]:
    """Epoch, batch and checksum, from a checkpoint's name."""
    match = FILE_NAME.fullmatch(file.name)
    if match is None:
        raise ValueError(f"{file} is not named like a checkpoint")
    return int(match[1]), int(match[2]), match[3]


def write_tensors(file: BinaryIO, tensors: dict[str, Tensor]) -> str:
    """Write contiguous CPU tensors as safetensors; the checksum: the first 128 bits of SHA-256, in hex.

    Ours, for safetensors' own writer holds two more copies of the data or hides the system's error number."""
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())  # so that each starts aligned
    header: dict[str, Any] = {"__metadata__": {"g2d_checkpoint": FORMAT}}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        dtype, shape = CODES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = struct.pack("<Q", len(text)) + text
    digest = hashlib.sha256(start)
    file.write(start)
    for _, tensor in ordered:
        part = memory(tensor).numpy().data
        digest.update(part)
        file.write(part)
    return digest.hexdigest()[:32]


def check_file(file: Path) -> None:
    """Raise BrokenCheckpoint, saying what is wrong, unless the file is whole and of our format."""
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
            size = stream.tell()
        if digest != place(file)[2]:
            mismatch = f"its {size} bytes do not match the checksum in its name (damaged or cut short)"
            raise BrokenCheckpoint(mismatch if size else "it is empty (0 bytes)")
        with safe_open(file, framework="pt") as content:
            version = (content.metadata() or {}).get("g2d_checkpoint")
    except OSError as error:
        raise BrokenCheckpoint(f"it cannot be read ({error.strerror})") from error
    except SafetensorError as error:
        raise BrokenCheckpoint(f"it is not a safetensors file ({error})") from error
    if version != FORMAT:
        reason = f"its format is {version}, and this version of g2d_pipeline reads {FORMAT} only"
        raise BrokenCheckpoint(reason)


def read_file(file: Path) -> dict[str, Any]:
    """The state in a checkpoint's file, tensor by tensor into memory of its own. Raises BrokenCheckpoint."""
    check_file(file)
    with safe_open(file, framework="pt") as content:
        return _from_tensors(content.get_tensor)


def to_bytes(state: dict[str, Any]) -> bytes:
    """What a checkpoint's file would hold: to send it."""
    file = io.BytesIO()
    write_tensors(file, _with_structure(state))
    return file.getvalue()


def from_bytes(content: bytes) -> dict[str, Any]:
    """The inverse of `to_bytes`."""
    return _from_tensors(load(content).__getitem__)


def _with_structure(state: dict[str, Any]) -> dict[str, Tensor]:
    tensors, structure = flatten(state)
    text = bytearray(structure, "utf-8", "surrogatepass")
    return tensors | {"structure": torch.frombuffer(text, dtype=torch.uint8)}


def _from_tensors(tensor: Callable[[str], Tensor]) -> dict[str, Any]:
    structure = tensor("structure").numpy().tobytes().decode("utf-8", "surrogatepass")
    state: dict[str, Any] = unflatten(structure, tensor)
    return state


# ---------------------------------------------------------------------------------------------- the structure
def flatten(state: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
    """Take the tensors and arrays out of nested data: contiguous CPU tensors by name, and the rest as JSON.

    The tensors share memory with those of `state` where they can, and are detached. JSON objects with a key
    in `$` stand for what JSON lacks. Raises TypeError that names the path of a value that cannot be saved."""
    tensors: dict[str, Tensor] = {}
    plain = _encode(state, (), tensors)
    return tensors, json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def unflatten(structure: str, tensor: Callable[[str], Tensor]) -> Any:
    """The inverse of `flatten`; `tensor` gives a tensor by its name and is asked once for each."""
    return _decode(json.loads(structure), tensor)


def memory(tensor: Tensor) -> Tensor:
    """The memory of a dense tensor as bytes `[elements × bytes of one]`, shared with it."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def _spell(path: tuple[Any, ...]) -> str:
    """The keys on the way to a value as Python spells them: `state["model"][3]`."""
    return "state" + "".join(f"[{json.dumps(key) if isinstance(key, str) else repr(key)}]" for key in path)


def _encode(value: Any, path: tuple[Any, ...], tensors: dict[str, Tensor]) -> Any:
    kind = type(value)  # exactly: a subclass would come back as its base
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    if kind is bytes:
        return {"$bytes": value.hex()}
    if kind in (list, tuple):
        items = [_encode(item, (*path, i), tensors) for i, item in enumerate(value)]
        return items if kind is list else {"$tuple": items}
    if kind in (dict, OrderedDict):
        return _encode_dict(value, path, tensors)
    plain = kind is Tensor and value.layout == torch.strided and not (value.is_nested or value.is_meta)
    if plain and (value.dtype in CODES or value.dtype in AS_BYTES):
        return _encode_tensor(value, path, tensors)
    if kind is np.ndarray and value.dtype.kind in NUMPY_KINDS:
        name = f"{len(tensors)} {_spell(path)}"
        raw = np.require(value, requirements=["C", "W"]).reshape(-1).view(np.uint8)
        tensors[name] = torch.from_numpy(raw)
        return {"$array": [name, value.dtype.str, list(value.shape)]}
    if isinstance(value, np.generic) and value.dtype.kind in NUMPY_KINDS:
        return {"$scalar": [value.dtype.str, value.tobytes().hex()]}
    what = kind.__name__
    if kind in (Tensor, np.ndarray):
        what += f" of {value.dtype}" + (f" ({value.layout}, {value.device})" if kind is Tensor else "")
    raise TypeError(
        f"{_spell(path)}: a checkpoint holds tensors, numpy arrays, numbers, text, bytes, None, "
        f"and dicts, lists and tuples of them, not {what}"
    )


def _encode_dict(value: dict[Any, Any], path: tuple[Any, ...], tensors: dict[str, Tensor]) -> Any:
    if type(value) is dict and all(type(key) is str and not key.startswith("$") for key in value):
        return {key: _encode(item, (*path, key), tensors) for key, item in value.items()}
    items = []
    for key, item in value.items():
        if not (key is None or isinstance(key, bool | int | float | str | bytes | np.generic)):
            kind = type(key).__name__
            raise TypeError(
                f"{_spell(path)}: the dicts of a checkpoint have text and numbers as keys, not {kind}"
            )
        items.append([_encode(x, (*path, key), tensors) for x in (key, item)])
    return {"$dict" if type(value) is dict else "$ordered": items}


def _encode_tensor(value: Tensor, path: tuple[Any, ...], tensors: dict[str, Tensor]) -> Any:
    """Name the elements in the order of memory where they are dense (channels_last), else in row order."""
    value = value.detach().resolve_conj().resolve_neg().cpu()
    shape, stride = value.shape, value.stride()
    order = sorted(range(value.dim()), key=lambda d: (stride[d], shape[d]), reverse=True)
    in_memory = value if value.is_contiguous() else value.permute(order)
    if not in_memory.is_contiguous():
        in_memory = value.contiguous()
        stride = in_memory.stride()
    if value.dtype in AS_BYTES:
        in_memory = memory(in_memory)
    name = f"{len(tensors)} {_spell(path)}"
    tensors[name] = in_memory
    return {"$tensor": [name, str(value.dtype).removeprefix("torch."), list(shape), list(stride)]}


def _decode(node: Any, tensor: Callable[[str], Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(item, tensor) for item in node]
    if not isinstance(node, dict):
        return node
    match next(iter(node.items()), None):
        case ("$float", text):
            return struct.unpack(">d", bytes.fromhex(text))[0]
        case ("$bytes", text):
            return bytes.fromhex(text)
        case ("$tuple", items):
            return tuple(_decode(items, tensor))
        case ("$dict", items):
            return {_decode(key, tensor): _decode(item, tensor) for key, item in items}
        case ("$ordered", items):
            return OrderedDict((_decode(key, tensor), _decode(item, tensor)) for key, item in items)
        case ("$tensor", [name, dtype, shape, stride]):
            value = torch.empty_strided(shape, stride, dtype=getattr(torch, dtype))
            memory(value).copy_(memory(tensor(name)))  # as bytes: the file's may lie at any address
            return value
        case ("$array", [name, dtype, shape]):
            array = np.empty(shape, dtype)
            array.reshape(-1).view(np.uint8)[:] = tensor(name).numpy()
            return array
        case ("$scalar", [dtype, text]):
            return np.ndarray((), dtype, bytearray.fromhex(text))[()]
    return {key: _decode(item, tensor) for key, item in node.items()}
