"""PyTorch's files (``torch.save``), read without its unpickler: nothing in a file is called, whoever wrote it.

A pickle is a list of instructions. Here they move plain values and *claims* of tensors around: which storage, where in
it, which shape. What asks for anything else is refused by its name. Tensors are made in the end, one by one, after all
claims have been compared with the size of the file.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

INSTRUCTIONS = 4_000_000
"""Most instructions of a pickle that are followed; a tensor takes about 40. They are what bounds the memory."""
_MAGIC = 0x1950A86A20F9469CFC6C  # begins what torch.save wrote before it wrote zip archives
_STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "Untyped": "uint8",
    "ComplexFloat": "complex64", "ComplexDouble": "complex128",
    "QInt8": "qint8", "QUInt8": "quint8", "QInt32": "qint32", "QUInt4x2": "quint4x2", "QUInt2x4": "quint2x4",
}  # fmt: skip
_INERT = {
    "_codecs.encode", "numpy.dtype", "numpy.ndarray", "torch.Size", "torch.device",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "bytearray")),
    "collections.Counter", "torch.serialization._get_layout", "torch._utils._get_layout",
}  # fmt: skip
"""What may stand beside tensors. It is passed over: neither called nor made."""
_UNUSUAL = {
    "_rebuild_sparse_tensor": "a sparse tensor", "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantised tensor", "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a meta tensor, which has no values",
    "_rebuild_wrapper_subclass": "a tensor of another class",
    "_rebuild_device_tensor_from_numpy": "a tensor of another device",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
}  # fmt: skip


class Unsound(ValueError):
    """Why a file is not read; follows the file's name in a sentence."""


@dataclass(frozen=True, eq=False)
class Unusual:
    """Something in a checkpoint that is no plain tensor and no plain value."""

    what: str


class UnusualTensor(Unusual):
    """A tensor that is not a plain one: sparse, quantised, without values, ..."""


@dataclass(frozen=True, eq=False)
class Claim:
    """What a pickle says of a tensor."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def check(self) -> None:
        """Raise :class:`Unsound` unless it lies within its storage."""
        numbers = (self.offset, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
            raise Unsound("is damaged: it claims a tensor whose sizes, strides and offset are no numbers")
        stored, claimed = self.storage.nbytes // self.dtype.itemsize, math.prod(self.shape)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        if claimed > stored or (claimed and last >= stored):
            raise Unsound(f"claims a tensor of {claimed:,} elements where {stored:,} are stored")


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    nbytes: int


class _Name(str):
    """``module.name`` of something that a pickle wants: only its name."""

    __slots__ = ()


def shown(name: object) -> str:
    """A name from a file as it may stand in a message: one line, and short. Of what is no name only the type."""
    text = ascii(str(name))[1:-1] if isinstance(name, str) else type(name).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refused(name: object) -> Unsound:
    return Unsound(
        f"refused: it holds pickled objects other than tensors ({shown(name)}), which can run code; "
        "save model.state_dict() on its own"
    )


class _Machine:
    """Follows the instructions of one pickle; ``storages`` are those that it named."""

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}

    def run(self, file: Any) -> Any:
        """The content, up to the instruction to stop; ``file`` stands behind it."""
        op: Any  # and arg: a number, a text, bytes or None, as op says
        arg: Any
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[int, Any] = {}

        def marked() -> list[Any]:
            at = marks.pop()
            items = stack[at:]
            del stack[at:]
            return items

        for number, (op, arg, _) in enumerate(pickletools.genops(file)):
            if number >= INSTRUCTIONS:
                raise Unsound(f"refused: its pickle has more than {INSTRUCTIONS:,} instructions")
            match op.name:
                case "PROTO" | "FRAME":
                    pass
                case "MARK":
                    marks.append(len(stack))
                case "STOP":
                    return stack.pop()
                case "POP":
                    stack.pop()
                case "POP_MARK":
                    marked()
                case "DUP":
                    stack.append(stack[-1])
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "PUT" | "BINPUT" | "LONG_BINPUT":
                    memo[arg] = stack[-1]
                case "GET" | "BINGET" | "LONG_BINGET":
                    stack.append(memo[arg])
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[op.name])
                case "EMPTY_LIST" | "EMPTY_SET":
                    stack.append([])
                case "LIST" | "FROZENSET":
                    stack.append(marked())
                case "APPEND":
                    value = stack.pop()
                    _extend(stack[-1], [value])
                case "APPENDS" | "ADDITEMS":
                    items = marked()
                    _extend(stack[-1], items)
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE":
                    stack.append(tuple(marked()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = int(op.name[-1])
                    stack[-count:] = [tuple(stack[-count:])]
                case "EMPTY_DICT":
                    stack.append({})
                case "DICT":
                    items = marked()
                    stack.append(_put({}, items))
                case "SETITEM":
                    items = [stack.pop(), stack.pop()]
                    _put(stack[-1], items[::-1])
                case "SETITEMS":
                    items = marked()
                    _put(stack[-1], items)
                case "GLOBAL":
                    stack.append(_Name(arg.replace(" ", ".", 1)))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    stack.append(_Name(".".join([module, name])))
                case "REDUCE" | "NEWOBJ":
                    arguments, name = stack.pop(), stack.pop()
                    stack.append(_call(name, arguments))
                case "BUILD":  # what an object would be told about itself
                    stack.pop()
                    stack[-1]
                case "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                case "NEWOBJ_EX":
                    raise _refused(stack[-3])
                case "INST":
                    raise _refused(arg.replace(" ", ".", 1))
                case "OBJ":
                    raise _refused(marked()[0])
                case _ if op.arg is not None and op.stack_after and not op.stack_before and "EXT" not in op.name:
                    stack.append(arg)  # a number, a text or bytes
                case _:
                    raise Unsound(f"is damaged or not a PyTorch checkpoint: its pickle has an instruction {op.name}")
        raise Unsound("is damaged or not a PyTorch checkpoint: its pickle does not end")

    def _storage(self, said: Any) -> _Storage:
        if not isinstance(said, tuple) or said[0] != "storage":
            raise _refused(said[1])
        _, kind, key, _, numel, *views = said
        short = kind.rpartition(".")[2].removesuffix("Storage") if isinstance(kind, _Name) else ""
        if short not in _STORAGES or not isinstance(key, str) or type(numel) is not int or numel < 0 or any(views):
            raise Unsound(f"is damaged: it claims a storage of {shown(kind)}")
        dtype = getattr(torch, _STORAGES[short])
        storage = _Storage(key, dtype, numel * dtype.itemsize)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise Unsound(f"is damaged: its storage {shown(key)} has two sizes")
        return storage


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Unusual):
        raise Unsound("is damaged or not a PyTorch checkpoint: its pickle appends to what is no list")


def _put(target: Any, items: Sequence[Any]) -> Any:
    """A key that is no name or number becomes one that equals no other; hashing what a file made may never end."""
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            plain = key is None or isinstance(key, str | int | float | bytes)
            target[key if plain else Unusual(type(key).__name__)] = value
    elif not isinstance(target, Unusual):
        raise Unsound("is damaged or not a PyTorch checkpoint: its pickle sets items of what is no mapping")
    return target


def _call(name: Any, arguments: Any) -> Any:
    """What stands for a call in a pickle."""
    if not isinstance(name, _Name) or not isinstance(arguments, tuple):
        raise Unsound("is damaged or not a PyTorch checkpoint: its pickle calls what is no function")
    short = name.rpartition(".")[2]
    if name in ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"):
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        return _put({}, [one for pair in pairs for one in pair])
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return arguments[0]
    if name == "torch._tensor._rebuild_from_type_v2":  # a parameter or tensor with attributes
        function, kind, inner, _ = arguments
        if kind in ("torch.nn.parameter.Parameter", "torch.Tensor") and "_rebuild_from_type" not in function:
            return _call(function, inner)
        return UnusualTensor("a tensor of another class")
    if name.startswith("torch._utils._rebuild_tensor"):
        storage, offset, shape, stride = arguments[:4]
        if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
            raise Unsound("is damaged: it claims a tensor without a storage")
        kind = arguments[6].removeprefix("torch.") if short == "_rebuild_tensor_v3" else ""
        dtype = getattr(torch, kind) if kind else storage.dtype
        if not isinstance(dtype, torch.dtype):
            raise Unsound(f"is damaged: it claims a tensor of type {shown(kind)}")
        claim = Claim(storage, dtype, offset, shape, stride)
        claim.check()
        return claim
    if name.startswith("torch.") and short in _UNUSUAL:
        return UnusualTensor(_UNUSUAL[short])
    if name in _INERT:
        return Unusual(name)
    raise _refused(name)


class _Clipped:
    """A file of which no more is asked than it has: a pickle may claim any length, and memory would be made for it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.readline = file, size, file.readline

    def read(self, count: int) -> bytes:
        return self.file.read(count if count < 4096 else min(count, self.size - self.file.tell()))


class Checkpoint:
    """A file of ``torch.save``, zip archive or older: ``content`` with a :class:`Claim` in place of each tensor.

    Args:
        file: open for reading, from its beginning; it stays open as long as tensors are wanted.

    Raises:
        Unsound: another kind of file, one that asks for code, or one whose parts do not add up. Damage may raise
            nearly any other exception, too.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._raw = file, dict[str, bytearray]()
        self._machine = _Machine()
        file.seek(0, 2)
        self._size = file.tell()
        file.seek(0)
        zipped = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        self.content, self._fetch, self._swapped = self._of_archive() if zipped else self._of_pickles()

    def tensor(self, claim: Claim) -> Tensor:
        """The tensor itself; those that shared a storage share it."""
        key = claim.storage.key
        if key not in self._raw:
            raw = self._fetch(claim.storage)
            if self._swapped:
                raw = bytearray(np.frombuffer(raw, f"u{claim.dtype.itemsize}").byteswap().tobytes())
            self._raw[key] = raw
        if not self._raw[key]:
            return torch.empty(claim.shape, dtype=claim.dtype)
        return torch.frombuffer(self._raw[key], dtype=claim.dtype).as_strided(claim.shape, claim.stride, claim.offset)

    def _of_archive(self) -> tuple[Any, Callable[[_Storage], bytearray], bool]:
        archive = zipfile.ZipFile(self._file)
        entries = {info.filename: info for info in archive.infolist()}
        root = next((name.removesuffix("data.pkl") for name in entries if name.endswith("data.pkl")), None)
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in entries):
            raise Unsound(
                "is a TorchScript archive, which holds code: save its weights on their own, "
                "torch.save(torch.jit.load(file).state_dict(), other_file)"
            )
        if root is None:
            first = shown(next(iter(entries), "nothing"))
            raise Unsound(f"is a zip archive (of {first}), but no checkpoint of PyTorch: it holds no data.pkl")
        unpacked = sum(info.file_size for info in entries.values())
        if unpacked > self._size:
            raise Unsound(f"refused: it unpacks to {unpacked:,} bytes from {self._size:,}; PyTorch does not compress")
        for info in entries.values():
            if info.CRC == 0:  # set_crc32_options(False)
                info.CRC = None  # type: ignore[assignment]

        def bytes_of(name: str) -> bytearray:
            content = bytearray(entries[name].file_size)
            view = memoryview(content)
            with archive.open(name) as entry:
                while chunk := entry.read(2**24):  # to its end, where its checksum is compared
                    view[: len(chunk)], view = chunk, view[len(chunk) :]
            if view:
                raise Unsound(f"is damaged: {shown(name)} is cut off")
            return content

        def fetch(storage: _Storage) -> bytearray:
            name = f"{root}data/{storage.key}"
            if name not in entries or entries[name].file_size != storage.nbytes:
                has = f"{entries[name].file_size:,}" if name in entries else "no"
                raise Unsound(f"is damaged: a storage of {storage.nbytes:,} bytes has {has} bytes in the file")
            return bytes_of(name)

        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
        return self._machine.run(io.BytesIO(archive.read(f"{root}data.pkl"))), fetch, order == b"big"

    def _of_pickles(self) -> tuple[Any, Callable[[_Storage], bytearray], bool]:
        head, swapped = _Clipped(self._file, self._size), False
        content = self._machine.run(head)
        places: dict[str, int] = {}
        if content == _MAGIC:
            _, about, content, keys = (self._machine.run(head) for _ in range(4))
            swapped, at = not about["little_endian"], self._file.tell()
            for key in keys:
                storage = self._machine.storages[key]
                self._file.seek(at)
                numel = int.from_bytes(self._file.read(8), "big" if swapped else "little")
                places[key], at = at + 8, at + 8 + storage.nbytes
                if numel * storage.dtype.itemsize != storage.nbytes or at > self._size:
                    raise Unsound(f"is damaged: a storage of {storage.nbytes:,} bytes does not fit into the file")

        def fetch(storage: _Storage) -> bytearray:
            raw = bytearray(storage.nbytes)
            self._file.seek(places[storage.key])
            if self._file.readinto(raw) != len(raw):  # type: ignore[attr-defined]
                raise Unsound("is damaged: it is cut off")
            return raw

        return content, fetch, swapped
