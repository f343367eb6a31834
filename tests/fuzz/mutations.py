"""Damaged files, made from whole ones: input number k of a door is always the same."""

import copy
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 60_000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 3.5, 1e308, 10**30, float("nan"), float("inf"), "", "x", "../../etc", "/etc/passwd",
    "a\x1b[2J", "\ud800", "0" * 500, "o" * 500, [], {}, [[]], {"": {}}, [1] * 50, {"a": [None]},
)  # fmt: skip


def damage(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """`data` with one to four damages: bits, bytes, numbers, blocks, ends, parts of other files."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(8)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = rng.randrange(256)
        elif kind == 2:
            width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
            number = rng.choice(NUMBERS) & ((1 << 8 * width) - 1)
            out[at : at + width] = number.to_bytes(width, order)
        elif kind == 3:
            del out[at : at + rng.choice((1, 2, 4, 16, 200))]
        elif kind == 4:
            out[at:at] = out[at : at + rng.choice((1, 4, 16, 200))] * rng.choice((1, 1, 3))
        elif kind == 5:
            del out[at:]
        elif kind == 6:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            out[at : at + rng.choice((4, 16, 400))] = other[start : start + rng.choice((4, 16, 400))]
        else:
            out[at:at] = rng.randbytes(rng.choice((1, 4, 30)))
    return bytes(out)


def png(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Damages one chunk and mends its checksum, or damages the file as it is."""
    if rng.random() < 0.4:
        return damage(data, others, rng)
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    number = rng.randrange(len(chunks))
    kind, body = chunks[number]
    if kind == b"IDAT" and rng.random() < 0.5:
        body = zlib.compress(damage(zlib.decompressobj().decompress(body, 1 << 20), [body], rng))
    elif rng.random() < 0.2:
        chunks.insert(rng.randrange(len(chunks)), chunks[number])
    else:
        body = damage(body, [b for _, b in chunks], rng)
    chunks[number] = kind, body
    joined = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return data[:8] + b"".join(joined)


def archive(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Damages one member of a zip and packs it anew, or damages the file as it is."""
    if rng.random() < 0.4:
        return damage(data, others, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        members = source.infolist()
        chosen = rng.choice(members)
        for info in members:
            body = source.read(info)
            if info is chosen:
                body = damage(body, [body], rng)
                if rng.random() < 0.1:
                    info = zipfile.ZipInfo(rng.choice(("../up.png", "/etc/x", "a//b", "x" * 300, "é\\..")))
            target.writestr(info, body, info.compress_type)
    return out.getvalue()


def folder(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Damages or leaves out one file of a folder that is packed as a zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        members = source.infolist()
        chosen = rng.choice(members)
        for info in members:
            body = source.read(info)
            if info is chosen:
                if rng.random() < 0.1:
                    continue
                body = json_file(body, [body], rng) if body[:1] in (b"{", b"[") else damage(body, [body], rng)
            target.writestr(info, body)
    return out.getvalue()


def safetensors(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Changes the header's JSON and mends its length, or damages the file as it is."""
    if rng.random() < 0.5:
        return damage(data, others, rng)
    length = int.from_bytes(data[:8], "little")
    header = text(json.loads(data[8 : 8 + length]), rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def json_file(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Changes values, keys and shapes in a JSON tree, or damages its text."""
    return damage(data, others, rng) if rng.random() < 0.2 else text(json.loads(data), rng)


def text(tree: Any, rng: random.Random) -> bytes:
    """A JSON tree with one to three changes, as text."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _changed(tree, rng)
    return json.dumps(tree).encode()


def _changed(tree: Any, rng: random.Random) -> Any:
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.15:
        if isinstance(tree, str) and tree and rng.random() < 0.5:
            return damage(tree.encode(errors="replace"), [b"0o?@/.\0"], rng).decode("latin-1")
        if isinstance(tree, int | float) and rng.random() < 0.5:
            return rng.choice((tree + 1, -tree, tree * 1000, *NUMBERS, 0.5))
        return copy.deepcopy(rng.choice(VALUES))
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = rng.choice(keys)
    kind = rng.random()
    if kind < 0.1:
        del tree[key]
    elif kind < 0.2 and isinstance(tree, dict):
        value = tree.pop(key)
        tree[rng.choice(("", "..", "-1", "x", f"{key} ", "\x1b[2J", str(1 << 70)))] = value
    elif kind < 0.25 and isinstance(tree, list):
        tree.extend(tree[: rng.choice((1, 5))])
    else:
        tree[key] = _changed(tree[key], rng)
    return tree
