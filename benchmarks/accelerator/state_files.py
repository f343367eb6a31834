"""Saves a training run in small files of at most `MOST` bytes each, for copying from a remote machine.

    weights.safetensors, weights.json   averaged weights and their record, as vos_jax.tools.export writes them
    state-1-of-N.safetensors, ...       parameters, the optimiser's state; step, position in the data, config

Resuming from them is not bit for bit: the optimiser's moments and the dense kernels of the averaged weights
are rounded to bfloat16. Parameters (float32), counts, the step, the position in the data and the random key,
which follows from the config's seed, are exact.
"""

import contextlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
import safetensors.numpy
from flax import traverse_util

from vos_jax import errors, files, weights_io
from vos_jax.models import weights
from vos_jax.tools import export
from vos_jax.train import state as state_lib

MOST = 15 * 2**20
WEIGHTS = "weights.safetensors"
_FILE = re.compile(r"state-(\d+)-of-(\d+)\.safetensors")


def save(
    folder: pathlib.Path, run: state_lib.TrainState, position: Mapping[str, Any], noted: Mapping[str, Any]
) -> None:
    """Writes a state and its averaged weights; every file is replaced atomically.

    Args:
      folder: of the files; older ones are replaced.
      run: the state, on the host.
      position: in the data, from `pipeline.BatchIterator.get_state`.
      noted: "config" as plain values, and if known "commit" and "command".

    Raises:
      VosError: the folder cannot be written, or weights are not finite.
    """
    step = int(run.step)
    export.save(run.ema, folder / WEIGHTS, noted={**noted, "step": step, "score": None}, where=f"step {step}")
    shards = _shards(_tensors(run))
    metadata = {"step": str(step), "position": json.dumps(position), "config": json.dumps(noted["config"])}
    names = [f"state-{index + 1}-of-{len(shards)}.safetensors" for index in range(len(shards))]
    try:
        with contextlib.ExitStack() as written:
            for name, shard in zip(names, shards, strict=True):
                temporary = written.enter_context(files.atomic(folder / name))
                temporary.write_bytes(safetensors.numpy.save(shard, metadata=metadata))
        for path in _files(folder):
            if path.name not in names:
                path.unlink()
    except OSError as error:
        raise errors.VosError(f"{folder}: cannot write the state of step {step} ({error})") from error


def noted_config(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the config of the state in a folder; None if there is no state."""
    paths = _files(folder)
    return json.loads(_read(paths[0])[1]["config"]) if paths else None


def restore(
    folder: pathlib.Path, fresh: state_lib.TrainState
) -> tuple[state_lib.TrainState, dict[str, Any]] | None:
    """Returns the state in a folder and its position in the data; None if there is no state.

    Args:
      folder: the folder of `save`.
      fresh: the state before the first step, which gives the shapes and the random key.

    Raises:
      VosError: a file is missing, damaged, of another step than the others, or of another model.
    """
    paths = _files(folder)
    if not paths:
        return None
    read = [_read(path) for path in paths]
    known: dict[str, np.ndarray] = {}
    for tensors, _ in read:
        known |= tensors
    steps = {metadata["step"] for _, metadata in read}
    count = int(_FILE.fullmatch(paths[0].name)[2])
    if len(steps) > 1 or len(paths) != count:
        raise errors.VosError(
            f"{folder}: the state is not complete ({len(paths)} of {count} files, of step "
            f"{' and '.join(sorted(steps))}); remove state-*.safetensors to start again, for example from "
            f"--init {folder / WEIGHTS}"
        )

    def take(name: str, tree: Any) -> Any:
        def one(path: Any, like: Any) -> np.ndarray:
            key = _key(name, path)
            if key not in known or known[key].shape != like.shape:
                raise errors.VosError(
                    f"{folder}: the state has no {key} of shape {like.shape}; it is of another model"
                )
            return known[key].astype(like.dtype)

        return jax.tree_util.tree_map_with_path(one, tree)

    data = files.read_bytes(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else b""
    flat, _ = weights_io.load(data, str(folder / WEIGHTS))
    expected = traverse_util.flatten_dict(fresh.ema, sep="/")
    weights.check_params(flat, expected, folder / WEIGHTS)
    ema = {key: np.asarray(flat[key], np.float32) for key in expected}
    run = fresh.replace(
        params=take("params", fresh.params),
        ema=traverse_util.unflatten_dict(ema, sep="/"),
        opt_state=take("optimiser", fresh.opt_state),
        step=np.int32(steps.pop()),
    )
    return run, json.loads(read[0][1]["position"])


def _tensors(run: state_lib.TrainState) -> dict[str, np.ndarray]:
    """Returns the stored arrays of a state, by name; the optimiser's float arrays in bfloat16."""
    found = {}
    for path, value in jax.tree_util.tree_leaves_with_path(run.params):
        found[_key("params", path)] = np.asarray(value)
    for path, value in jax.tree_util.tree_leaves_with_path(run.opt_state):
        value = np.asarray(value)
        is_moment = value.dtype == np.float32
        found[_key("optimiser", path)] = value.astype(ml_dtypes.bfloat16) if is_moment else value
    return found


def _key(name: str, path: Any) -> str:
    return f"{name}/{jax.tree_util.keystr(path, simple=True, separator='/')}"


def _shards(tensors: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Splits the tensors, in order, into parts of at most `MOST` bytes, or of one larger tensor."""
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, value in tensors.items():
        if size + value.nbytes > MOST and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
    return shards


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.glob("state-*.safetensors") if _FILE.fullmatch(path.name))


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        tensors, metadata = weights_io.load(files.read_bytes(path), str(path))
    except OSError as error:
        raise errors.VosError(f"{path}: cannot be read ({error.strerror})") from error
    if not {"step", "position", "config"} <= metadata.keys():
        raise errors.VosError(f"{path}: no state that benchmarks.accelerator wrote; move it away")
    return tensors, metadata
