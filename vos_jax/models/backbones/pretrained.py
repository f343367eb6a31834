"""Backbone weights on disk: a safetensors file and a JSON record of the same name."""

import hashlib
import pathlib
from collections.abc import Mapping

import numpy as np

from vos_jax import errors, files, weights_io

WEIGHTS = pathlib.Path(__file__).resolve().parents[2] / "weights"


def load(name: str, path: str | pathlib.Path | None = None) -> dict:
    """Reads the ImageNet parameters of a backbone, as float32 numpy arrays.

    Args:
        name: a key of `backbones.BACKBONES`.
        path: a file made by `python -m vos_jax.tools.convert`; None means the one in vos_jax/weights.

    Returns:
        The tree that goes into `module.apply({"params": tree}, frame)`.

    Raises:
        VosError: no such file (the message tells how to make one), not a safetensors file, a
            file of another backbone, or one whose sha256 differs from its record's.
    """
    file = pathlib.Path(path) if path is not None else WEIGHTS / f"{name}.safetensors"
    if not file.is_file():
        raise errors.VosError(
            f"no weights for {name} at {file}: make them from torchvision's file of that name with "
            f"`python -m vos_jax.tools.convert {name} {name}-XXXXXXXX.pth {file}`"
        )
    data = read_weights(file)
    check_record(file, data, required=path is None)
    flat, metadata = weights_io.load(data, str(file))
    if metadata.get("backbone") != name:
        of = metadata.get("backbone", "an unnamed model")
        raise errors.VosError(f"{file}: holds weights of {of}, not of the backbone {name}")
    return unflatten({key: np.asarray(value, np.float32) for key, value in flat.items()})


def read_weights(file: pathlib.Path) -> bytes:
    """Returns the bytes of a weights file; VosError if it cannot be read."""
    try:
        return files.read_bytes(file)
    except OSError as error:
        raise errors.VosError(f"{file}: cannot read the weights: {error.strerror}") from error


def check_record(file: pathlib.Path, data: bytes, *, required: bool) -> None:
    """Raises VosError unless `data` has the sha256 of the record next to `file`."""
    record = file.with_suffix(".json")
    if not record.is_file():
        if required:
            raise errors.VosError(f"{file}: its record {record.name} is missing; convert it again")
        return
    try:
        expected = files.read_json(record)["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise errors.VosError(f"{record}: not a record with a sha256; convert {file.name} again") from None
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise errors.VosError(
            f"{file}: damaged or replaced: sha256 is {found[:12]}…, its record says {str(expected)[:12]}…; "
            "restore it or convert it again"
        )


def unflatten(flat: Mapping[str, np.ndarray]) -> dict:
    """Converts `{"stem/kernel": a}` to `{"stem": {"kernel": a}}`."""
    tree: dict = {}
    for key, value in flat.items():
        *path, leaf = key.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree
