"""TensorFlow checkpoints of made-up tensors, written without TensorFlow."""

from __future__ import annotations

import struct

import torch
from torch import Tensor


def crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]], every: int = 4) -> bytes:
    """A LevelDB block with prefixes left out, but for every fourth entry."""
    out, restarts, before = bytearray(), [], b""
    for k, (key, value) in enumerate(entries):
        shared = 0
        if k % every == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return bytes(out) + struct.pack(f"<{len(restarts)}II", *restarts, len(restarts))


def write_checkpoint(prefix, tensors: dict[str, Tensor], dtypes=None, blocks: int = 2) -> None:
    data, entries = bytearray(), [(b"", field(1, 1) + field(3, field(1, 1)))]
    for name, tensor in sorted(tensors.items()):
        raw = tensor.contiguous().numpy().tobytes()
        shape = b"".join(field(2, field(1, s)) for s in tensor.shape)
        record = field(1, (dtypes or {}).get(name, 1)) + field(2, shape)
        record += (field(4, len(data)) if data else b"") + field(5, len(raw))
        entries.append((name.encode(), record + varint(6 << 3 | 5) + masked(raw)))
        data += raw
    parts = [entries[k * len(entries) // blocks : (k + 1) * len(entries) // blocks] for k in range(blocks)]
    write_table(prefix, [(part[-1][0] + b"\xff", block(part)) for part in parts], data)


def write_table(prefix, blocks: list[tuple[bytes, bytes]], data: bytes, times: int = 1) -> None:
    """Blocks with their last keys as an index, which names each so many times."""
    index, handles = bytearray(), []

    def put(content: bytes) -> bytes:
        handle = varint(len(index)) + varint(len(content))
        index.extend(content + b"\0" + masked(content + b"\0"))
        return handle

    for key, content in blocks:
        handles += [(key, put(content))] * times
    meta, top = put(block([])), put(block(handles))
    index.extend((meta + top).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))
    prefix.with_name(prefix.name + ".index").write_bytes(index)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)


def tf_weights(features: int = 3, recursions: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    f = features
    shapes = {
        "W-1_conv/conv_W_1": (3, 3, 1, f), "W-1_conv/conv_B": (f,), "W0_conv/conv_W_1": (3, 3, f, f),
        "W0_conv/conv_B": (f,), "W_conv": (3, 3, f, f), "B": (f,), "WD1_conv_1": (3, 3, f, f), "BD1": (f,),
        "WD2_conv_1": (3, 3, f + 1, 1), "BD2": (1,), "LayerWeights": (recursions,), "beta1_power": (),
        "W_conv/Adam": (3, 3, f, f),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=g) * 0.3 for name, shape in shapes.items()}
