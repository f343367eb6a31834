"""safetensors bytes to numpy arrays, bfloat16 included, which `safetensors.numpy` writes but cannot read."""

import json

import ml_dtypes
import numpy as np
import safetensors

from vos_jax import errors

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
    """The tensors and the metadata in the bytes of a safetensors file; `name` is what errors call it.

    Raises:
        VosError: not a whole safetensors file, or one with a type that is not in `DTYPES`.
    """
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise errors.VosError(f"{name}: not a whole safetensors file ({error})") from None
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
    return tensors, header.get("__metadata__") or {}  # null counts as none to `deserialize`, too
