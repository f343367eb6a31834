"""Weights in files: reads safetensors to numpy arrays (with bfloat16), writes weights with a record."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from vos_jax import errors, files

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def load(data: bytes, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the tensors and the metadata of a safetensors file's bytes; `name` is its name in errors.

    Raises:
        VosError: not a complete safetensors file, or one with a type that is not in `DTYPES`.
    """
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise errors.VosError(f"{name}: not a complete safetensors file ({error})") from None
    tensors = {}
    for key, entry in entries:
        if entry["dtype"] not in DTYPES:
            raise errors.VosError(f"{name}: {key} is of type {entry['dtype']}, which is not supported")
        try:
            tensors[key] = np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        except (ValueError, OverflowError) as error:
            raise errors.VosError(f"{name}: {key} has shape {entry['shape']}: {error}") from None
    # `deserialize` has validated the header: 8 bytes of length, then JSON.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, header.get("__metadata__") or {}  # `deserialize` accepts null, too


def trained_model(file: pathlib.Path) -> dict[str, Any]:
    """Returns the `model.` settings that weights were trained with, by flat key; {} where they are not noted.

    They are in the file's metadata; weights of older versions have them in the record beside the file.
    """
    try:
        with files.open_regular(file, 1 << 40) as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(length, 1 << 24)))
        noted = header.get("__metadata__", {}).get("model")
        found = json.loads(noted) if noted else files.read_json(file.with_suffix(".json"))["config"]
        # Before version 0.2 the settings were nested, under other names.
        return {key: value for key, value in found.items() if key.startswith("model.")}
    except (errors.VosError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def save(out: pathlib.Path, packed: bytes, record: Mapping[str, Any]) -> dict[str, Any]:
    """Writes weights to `out` and their record to `out` with .json; returns the record.

    Existing files are replaced only if this function wrote them: the record must match its own checksum and
    contain the sha256 of the weights.

    Args:
      out: ends in .safetensors; its folder is created.
      packed: the bytes of the file.
      record: JSON-able; "file", "sha256" and "checksum" are added to it.

    Raises:
      VosError: a file that this function did not write exists, or `out` cannot be written.
    """
    beside = out.with_suffix(".json")
    record = {**record, "file": out.name, "sha256": hashlib.sha256(packed).hexdigest()}
    replaced = _check_own(out, beside, packed)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if replaced:
            # If the program is killed between the two files, the record also matches the old weights.
            files.write_json(beside, _signed({**record, "replaces": replaced}))
        with files.atomic(out) as temporary:
            temporary.write_bytes(packed)
    except OSError as error:
        raise errors.VosError(f"{out}: cannot be written ({error.strerror}); choose another OUT") from None
    files.write_json(beside, signed := _signed(record))
    return signed


def check_free(out: pathlib.Path) -> None:
    """Raises VosError if a file that `save` did not write has the name of the weights or of their record."""
    _check_own(out, out.with_suffix(".json"), b"")


def _check_own(out: pathlib.Path, beside: pathlib.Path, packed: bytes) -> str | None:
    """Returns the sha256 of the weights that may be replaced, None if there are none; raises VosError."""
    record: dict[str, Any] = {}
    if os.path.lexists(beside):
        try:
            found = None if beside.is_symlink() else files.read_json(beside)
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict) or found.get("file") != out.name or found != _signed(found):
            raise errors.VosError(
                f"{beside}: is not a record of {out.name} that this program wrote, and is not replaced; move "
                "it away, or choose another OUT"
            )
        record = found
    if not os.path.lexists(out):
        return None
    try:
        there = None if out.is_symlink() else files.read_bytes(out)
    except OSError:
        there = None
    sha256 = None if there is None else hashlib.sha256(there).hexdigest()
    if there != packed and (sha256 is None or sha256 not in (record.get("sha256"), record.get("replaces"))):
        raise errors.VosError(
            f"{out}: exists, and by {beside.name} this program did not write it; it is not replaced: move it "
            "away, or choose another OUT"
        )
    return sha256


def _signed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record with the checksum of its other keys."""
    others = {key: value for key, value in record.items() if key != "checksum"}
    text = json.dumps(others, sort_keys=True)
    return {**others, "checksum": hashlib.sha256(text.encode()).hexdigest()[:32]}
