"""Reads the tensors of a PyTorch checkpoint without PyTorch and without executing code from the file.

A .pth is a pickle, and a pickle can call any function. Here only the few names below are allowed, and each
resolves to a harmless class of this module. Sizes are checked against the file before an array is allocated.
"""

import dataclasses
import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from vos_jax import errors

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the format before PyTorch 1.6
PROTOCOL = 1001

DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class Storage(NamedTuple):
    """A sequence of numbers in the file, of which a tensor is a view."""

    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass
class View:
    """A tensor as the pickle describes it, in elements of its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __setstate__(self, state: object) -> None:
        """Ignores the additional state of old Parameters (requires_grad, hooks)."""


class StorageType(NamedTuple):
    """The value of a storage's class name."""

    dtype: np.dtype


def _allowed() -> dict[tuple[str, str], Any]:
    """Returns the only names a file may load; new objects per file, as a pickle can change them."""

    class Dict(dict):
        """An OrderedDict; unlike `dict`, it accepts the attribute `_metadata` of state dicts."""

    def view(storage: Storage, offset: int, shape: tuple, strides: tuple, *_: object) -> View:
        return View(storage, offset, tuple(shape), tuple(strides))

    def same(tensor: View, *_: object) -> View:
        return tensor

    return {
        ("collections", "OrderedDict"): Dict,
        ("torch._utils", "_rebuild_tensor"): view,
        ("torch._utils", "_rebuild_tensor_v2"): view,
        ("torch._utils", "_rebuild_parameter"): same,
        ("torch.nn.parameter", "Parameter"): same,
        **{("torch", name): StorageType(dtype) for name, dtype in DTYPES.items()},
    }


def read(file: BinaryIO, name: str) -> dict[str, np.ndarray]:
    """Returns the tensors of a PyTorch checkpoint, by name.

    Args:
        file: a seekable binary file; the zip format (PyTorch 1.6 and later) or the older one.
        name: the file's name in errors.

    Raises:
        VosError: the file is truncated or not a PyTorch file, loads anything but tensors (the message names
            it), or is not a mapping of names to tensors.
    """
    try:
        return _tensors(file, name)
    except errors.VosError:
        raise
    # A damaged or malicious pickle or zip can raise any exception.
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise errors.VosError(f"{name}: not a readable PyTorch file, damaged or cut short ({what})") from None


def _tensors(file: BinaryIO, name: str) -> dict[str, np.ndarray]:
    is_zip = zipfile.is_zipfile(file)
    file.seek(0)
    state, storage_bytes = _read_zip(file, name) if is_zip else _read_legacy(file, name)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise errors.VosError(f"{name}: holds a {type(state).__name__}, not a mapping of names to tensors")
    return {key: _array(value, key, storage_bytes, name) for key, value in state.items()}


def _load(file: BinaryIO, name: str, persistent_load: Callable[[Any], Storage] | None = None) -> Any:
    """Loads one pickle from `file`; only the names of `_allowed` can be loaded."""
    allowed = _allowed()
    _check_memo(file, name)

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, attribute: str) -> Any:
            if (module, attribute) not in allowed:
                raise errors.VosError(
                    f"{name}: refused: the file loads {module}.{attribute}, but weights need only "
                    "tensors; save model.state_dict() and convert that"
                )
            return allowed[module, attribute]

    unpickler = Restricted(file)
    if persistent_load is not None:
        unpickler.persistent_load = persistent_load
    return unpickler.load()


def _check_memo(file: BinaryIO, name: str) -> None:
    """Raises VosError for a memo index beyond the number of opcodes: Python would allocate the whole memo."""
    start = file.tell()
    for count, (opcode, place, _) in enumerate(pickletools.genops(file)):
        # `place` is None for opcodes without an argument.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and place is not None and place > count:
            raise errors.VosError(f"{name}: refused: writes entry {place} of a memo with at most {count}")
    file.seek(start)


def _storage(pid: Any, name: str) -> Storage:
    """Returns the storage of a pickle's persistent id `("storage", type, key, place, count[, part])`."""
    kind, storage_type, key, _, count, *part = pid
    if kind != "storage" or not isinstance(storage_type, StorageType) or not isinstance(key, str):
        raise errors.VosError(f"{name}: refused: the file refers to a {kind!r}, not to a tensor's storage")
    if not isinstance(count, int) or count < 0:
        raise errors.VosError(f"{name}: damaged: storage {key} has a size of {count!r} numbers")
    if part not in ([], [None]):
        raise errors.VosError(
            f"{name}: tensors that share parts of a storage are not supported; save it again"
        )
    return Storage(key, storage_type.dtype, count)


def _read_zip(file: BinaryIO, name: str) -> tuple[Any, Callable[[Storage], bytes]]:
    archive = zipfile.ZipFile(file)
    members = {info.filename: info for info in archive.infolist()}
    # PyTorch does not compress. A compressed small file could unpack to a huge one.
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise errors.VosError(f"{name}: a compressed zip file, but not PyTorch's, which are never compressed")
    pickles = [member for member in members if member.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise errors.VosError(
            f"{name}: a zip file, but not PyTorch's: it has {len(pickles)} data.pkl, not one"
        )
    root = pickles[0].removesuffix("data.pkl")
    if root + "byteorder" in members and archive.read(root + "byteorder") != b"little":
        raise errors.VosError(
            f"{name}: written on a big-endian machine, which is not supported; save it again"
        )
    state = _load(io.BytesIO(archive.read(pickles[0])), name, lambda pid: _storage(pid, name))

    def storage_bytes(storage: Storage) -> bytes:
        member = f"{root}data/{storage.key}"
        expected = storage.count * storage.dtype.itemsize
        if member not in members or members[member].file_size != expected:
            found = f"has {members[member].file_size} bytes" if member in members else "is missing"
            raise errors.VosError(f"{name}: damaged: {member} {found}, its tensor needs {expected}")
        return archive.read(member)

    return state, storage_bytes


def _read_legacy(file: BinaryIO, name: str) -> tuple[Any, Callable[[Storage], bytes]]:
    if file.read(2) != b"\x80\x02":
        raise errors.VosError(f"{name}: neither a PyTorch file nor a safetensors file nor a wheel with one")
    file.seek(0)
    if _load(file, name) != MAGIC or _load(file, name) != PROTOCOL:
        raise errors.VosError(f"{name}: a pickle, but not a PyTorch file of a known version")
    if not _load(file, name)["little_endian"]:
        raise errors.VosError(
            f"{name}: written on a big-endian machine, which is not supported; save it again"
        )
    storages: dict[str, Storage] = {}

    def persistent_load(pid: Any) -> Storage:
        storage = _storage(pid, name)
        return storages.setdefault(storage.key, storage)

    state = _load(file, name, persistent_load)
    places = {}
    keys = _load(file, name)
    place = file.tell()
    end = file.seek(0, io.SEEK_END)
    for key in keys:
        storage = storages[key]
        file.seek(place)
        (count,) = struct.unpack("<q", file.read(8))
        size = count * storage.dtype.itemsize
        if count != storage.count or place + 8 + size > end:
            raise errors.VosError(
                f"{name}: damaged or cut short: storage {key}, at byte {place} of {end}, should hold "
                f"{storage.count} numbers, found {count}"
            )
        places[key] = (place + 8, size)
        place += 8 + size

    def storage_bytes(storage: Storage) -> bytes:
        start, size = places[storage.key]
        file.seek(start)
        return file.read(size)

    return state, storage_bytes


def _array(value: Any, key: str, storage_bytes: Callable[[Storage], bytes], name: str) -> np.ndarray:
    """Returns a tensor as a new array."""
    if not isinstance(value, View) or not isinstance(value.storage, Storage):
        raise errors.VosError(f"{name}: {key} is a {type(value).__name__}, not a tensor")
    sizes = (value.offset, *value.shape, *value.strides)
    if len(value.shape) != len(value.strides) or not all(isinstance(n, int) and n >= 0 for n in sizes):
        raise errors.VosError(f"{name}: damaged: {key} has shape {value.shape} and strides {value.strides}")
    last = value.offset + sum((n - 1) * step for n, step in zip(value.shape, value.strides, strict=True))
    # The product limits strides of 0, which could repeat one number any number of times.
    if 0 not in value.shape and not max(last + 1, math.prod(value.shape)) <= value.storage.count:
        raise errors.VosError(
            f"{name}: damaged: {key} has shape {value.shape}, its storage {value.storage.count} numbers"
        )
    numbers = np.frombuffer(storage_bytes(value.storage), value.storage.dtype)
    strides = [step * numbers.itemsize for step in value.strides]
    return np.lib.stride_tricks.as_strided(numbers[value.offset :], value.shape, strides).copy()
