"""A track on disk: one safetensors file, written whole or not at all, read back bit for bit."""

import functools
import hashlib
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

from vos_jax import errors, files, geometry, weights_io
from vos_jax.data import masks
from vos_jax.inference import tracked
from vos_jax.inference import tracker as tracker_lib
from vos_jax.models import state as state_lib

FORMAT = "vos_jax.snapshot/1"

SUM = "crc32"

LEARNED = "learned"
"""Before the names of a track's own parameters, which it has where it adapted to its video."""


def fingerprint(model: state_lib.Model, params: Any) -> str:
    """Names a model and its weights: a track may only go on with the one that it began with."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def save(
    path: str | os.PathLike, snapshot: tracked.Snapshot, model: str, note: Mapping[str, Any] | None = None
) -> None:
    """Writes a snapshot.

    Args:
      path: the file; its folder exists.
      snapshot: of a track.
      model: the `fingerprint` of the track's model.
      note: JSON-able; `read_note` returns it.

    Raises:
      VosError: the file cannot be written; one that was there stays as it was.
    """
    tensors = {
        prefix + jax.tree_util.keystr(path): np.asarray(leaf, order="C")
        for prefix, tree in (("", snapshot.state), (LEARNED, snapshot.learned))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    about = json.dumps(
        {
            "index": snapshot.index,
            "size": snapshot.size,
            "objects": sorted(snapshot.objects.items()),
            "first_frames": sorted(snapshot.first_frames.items()),
            "note": note or {},
        }
    )
    metadata = {"format": FORMAT, "model": model, "track": about, SUM: _sum(tensors, about)}
    path = pathlib.Path(path)
    try:
        with files.atomic(path) as temporary:
            temporary.write_bytes(safetensors.numpy.save(tensors, metadata=metadata))
    except OSError as error:
        raise errors.VosError(f"{path}: cannot save the state: {error.strerror or error}") from error


def load(path: str | os.PathLike, tracker: tracker_lib.Tracker, model: str) -> tracker_lib.Track:
    """Reads a snapshot and returns the track, ready to go on.

    Raises:
      VosError: no such file, a damaged one, or one of another model, other weights or other settings.
    """
    tensors, metadata = _read(path)
    if metadata.get("format") != FORMAT:
        raise errors.VosError(
            f"{path}: not a state saved by vos_jax (format {metadata.get('format')!r}, expected {FORMAT!r})"
        )
    if metadata.get("model") != model:
        raise errors.VosError(
            f"{path}: was saved with another model or other weights; load those, or start the video again"
        )
    if SUM in metadata and metadata[SUM] != _sum(tensors, metadata.get("track", "")):
        raise errors.VosError(f"{path}: damaged: it is not what was saved; start the video again")
    capacity = tensors[".object_valid"].size if ".object_valid" in tensors else 0
    index, size, objects, first_frames = _read_about(path, metadata.get("track"), capacity)
    seen = tracker.working_size(size)
    expected = jax.eval_shape(
        functools.partial(
            state_lib.init_state,
            tracker.model,
            capacity,
            geometry.padded_size(seen),
            seen,
        )
    )

    def take(key: tuple, leaf: jax.ShapeDtypeStruct, prefix: str = "") -> jax.Array:
        name = prefix + jax.tree_util.keystr(key)
        found = tensors.get(name)
        if found is None or found.shape != leaf.shape or found.dtype != leaf.dtype:
            is_there = "missing" if found is None else f"{found.dtype} {found.shape}"
            raise errors.VosError(
                f"{path}: {name.lstrip('.')} is {is_there}, this model needs {leaf.dtype} {leaf.shape}; it "
                "was saved with other settings"
            )
        return jax.device_put(found)

    # The parameters that the track has of its own are some of the tracker's.
    named = tracker.params if isinstance(tracker.params, Mapping) else {}
    own = {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        for name, tree in named.items()
        if any(found.startswith(f"{LEARNED}[{name!r}]") for found in tensors)
    }
    learned = jax.tree_util.tree_map_with_path(functools.partial(take, prefix=LEARNED), own)
    taken = {LEARNED + jax.tree_util.keystr(key) for key, _ in jax.tree_util.tree_leaves_with_path(own)}
    if left := sorted(name for name in tensors if name.startswith(LEARNED) and name not in taken):
        raise errors.VosError(
            f"{path}: {left[0]} is no parameter of this model; it was saved with another one"
        )
    snapshot = tracked.Snapshot(
        state=jax.tree_util.tree_map_with_path(take, expected),
        objects=objects,
        first_frames=first_frames,
        index=index,
        size=size,
        learned=learned,
    )
    return tracker.resume(snapshot)


def read_note(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the note that was saved with a snapshot; raises VosError if it cannot be read."""
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
) -> tuple[int, tuple[int, int], dict[int, int], dict[int, int]]:
    """Returns index, size, objects and first frames of a track."""
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
    if not (0 < height <= masks.MAX_SIDE and 0 < width <= masks.MAX_SIDE and 0 <= index < 2**31):
        raise errors.VosError(f"{path}: damaged: frame {index} of {width}x{height} pixels")
    slots = set(objects.values())
    if not (
        all(0 < i < masks.VOID for i in objects)
        and slots <= set(range(capacity))
        and len(slots) == len(objects)
        and objects.keys() == first_frames.keys()
        and all(0 <= at < index for at in first_frames.values())
    ):
        raise errors.VosError(
            f"{path}: damaged: its objects do not fit a state of {capacity} before frame {index}"
        )
    return index, (height, width), objects, first_frames
