"""A session on disk: one safetensors file, written whole or not at all, read back bit for bit."""

import functools
import json
import operator
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from vos_jax import errors, files, weights_io
from vos_jax.data import mask_files
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import objects as objects_lib
from vos_jax.inference import session as session_lib
from vos_jax.inference.snapshot import Snapshot

FORMAT = "vos_jax.snapshot/1"

SUM = "crc32"

ADAPTED = "learned"
"""Prefix of the tensors of a video's own parameters."""


def save(
    path: str | os.PathLike, session: session_lib.Session, note: Mapping[str, Any] | None = None
) -> None:
    """Saves the state of a session.

    Args:
      path: the file; its folder exists.
      session: one that knows the size of its frames.
      note: JSON-able; `read_note` returns it.

    Raises:
      VosError: no frame yet, or the file cannot be written; one that was there stays as it was.
    """
    snapshot = session.snapshot()
    trees = {_prefix(number): state for number, state in enumerate(snapshot.states)}
    tensors = {
        prefix + jax.tree_util.keystr(path): np.asarray(leaf, order="C")
        for prefix, tree in (*trees.items(), (ADAPTED, snapshot.adapted))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    about = json.dumps(
        {
            "index": snapshot.index,
            "size": snapshot.size,
            "objects": sorted(snapshot.objects.slots.items()),
            "first_frames": sorted(snapshot.objects.first_frames.items()),
            "note": note or {},
        }
    )
    model = session.engine.fingerprint
    metadata = {"format": FORMAT, "model": model, "track": about, SUM: _sum(tensors, about)}
    path = pathlib.Path(path)
    try:
        with files.atomic(path) as temporary:
            temporary.write_bytes(safetensors.numpy.save(tensors, metadata=metadata))
    except OSError as error:
        raise errors.VosError(f"{path}: cannot save the state: {error.strerror or error}") from error


def load(path: str | os.PathLike, engine: engine_lib.Engine) -> session_lib.Session:
    """Reads a saved session; its next `step` is the frame after.

    Raises:
      VosError: no such file, a damaged one, or one of another model, other weights or other settings.
    """
    tensors, metadata = _read(path)
    if metadata.get("format") != FORMAT:
        raise errors.VosError(
            f"{path}: not a state saved by vos_jax (format {metadata.get('format')!r}, expected {FORMAT!r})"
        )
    if metadata.get("model") != engine.fingerprint:
        raise errors.VosError(
            f"{path}: was saved with another model or other weights; load those, or start the video again"
        )
    if SUM in metadata and metadata[SUM] != _sum(tensors, metadata.get("track", "")):
        raise errors.VosError(f"{path}: damaged: it is not what was saved; start the video again")
    capacity = tensors[".object_valid"].size if ".object_valid" in tensors else 0
    index, size, objects = _read_about(path, metadata.get("track"), capacity)
    views = engine.views(size)
    if _prefix(len(views)) + ".object_valid" in tensors:
        raise errors.VosError(f"{path}: holds more views than this model's {len(views)}; other settings")

    def take(key: tuple, leaf: jax.ShapeDtypeStruct, prefix: str) -> jax.Array:
        name = prefix + jax.tree_util.keystr(key)
        found = tensors.get(name)
        if found is None or found.shape != leaf.shape or found.dtype != leaf.dtype:
            is_there = "missing" if found is None else f"{found.dtype} {found.shape}"
            raise errors.VosError(
                f"{path}: {name.lstrip('.')} is {is_there}, this model needs {leaf.dtype} {leaf.shape}; it "
                "was saved with other settings"
            )
        return jax.device_put(found)

    def take_all(expected: Any, prefix: str) -> Any:
        return jax.tree_util.tree_map_with_path(functools.partial(take, prefix=prefix), expected)

    # A video's own parameters are some of the engine's.
    named = engine.params if isinstance(engine.params, Mapping) else {}
    own = {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        for name, tree in named.items()
        if any(found.startswith(f"{ADAPTED}[{name!r}]") for found in tensors)
    }
    adapted = take_all(own, ADAPTED)
    taken = {ADAPTED + jax.tree_util.keystr(key) for key, _ in jax.tree_util.tree_leaves_with_path(own)}
    if left := sorted(name for name in tensors if name.startswith(ADAPTED) and name not in taken):
        raise errors.VosError(
            f"{path}: {left[0]} is no parameter of this model; it was saved with another one"
        )
    states = tuple(
        take_all(jax.eval_shape(functools.partial(engine.init_state, view, capacity)), _prefix(number))
        for number, view in enumerate(views)
    )
    snapshot = Snapshot(states=states, objects=objects, index=index, size=size, adapted=adapted)
    return session_lib.Session.restore(engine, snapshot)


def _prefix(view: int) -> str:
    """Returns the prefix of the tensors of a view's state; the first has none."""
    return f"view{view}" if view else ""


def read_note(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the note that was saved with a session; raises VosError if it cannot be read."""
    _, metadata = _read(path)
    try:
        return dict(files.parse_json(metadata["track"])["note"])
    except (ValueError, KeyError, TypeError) as error:
        raise errors.VosError(f"{path}: damaged: its note is unreadable ({error})") from error


def _read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        data = files.read_bytes(path)
    except OSError as error:
        raise errors.VosError(f"{path}: cannot read the state: {error.strerror or error}") from error
    return weights_io.load(data, str(path))


def _sum(tensors: Mapping[str, np.ndarray], about: str) -> str:
    total = zlib.crc32(about.encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(tensor.tobytes(), zlib.crc32(name.encode(), total))
    return f"{total:08x}"


def _read_about(
    path: str | os.PathLike, about: Any, capacity: int
) -> tuple[int, tuple[int, int], objects_lib.ObjectTable]:
    """Returns index, size and objects of a session."""
    try:
        track = files.parse_json(about)
        height, width = (operator.index(n) for n in track["size"])
        index = operator.index(track["index"])
        objects, first_frames = (
            {operator.index(i): operator.index(at) for i, at in track[key]}
            for key in ("objects", "first_frames")
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.VosError(
            f"{path}: damaged: what it notes of the video is unreadable ({error})"
        ) from error
    if not (0 < height <= mask_files.MAX_SIDE and 0 < width <= mask_files.MAX_SIDE and 0 <= index < 2**31):
        raise errors.VosError(f"{path}: damaged: frame {index} of {width}x{height} pixels")
    slots = set(objects.values())
    if not (
        all(0 < i < mask_files.VOID for i in objects)
        and slots <= set(range(capacity))
        and len(slots) == len(objects)
        and objects.keys() == first_frames.keys()
        and all(0 <= at < index for at in first_frames.values())
    ):
        raise errors.VosError(
            f"{path}: damaged: its objects do not fit a state of {capacity} before frame {index}"
        )
    return index, (height, width), objects_lib.ObjectTable(objects, first_frames)
