"""Repacks parameters of version 0.1, which had no branch for the matcher and one array of lambdas.

    python -m benchmarks.layout_0_1 OLD.safetensors NEW.safetensors
    python -m benchmarks.layout_0_1 OLD_WORKDIR NEW_WORKDIR --config train_lite0 --data static=... davis=...

The first command writes weights in today's layout, every tensor unchanged, and their record with the new
checksum. The second one writes the newest checkpoint of a training run, with the position in its data;
`--config` and `--data` are those of the run. `benchmarks.same_as` compares gradients by the same functions.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from vos_jax import config as configs
from vos_jax import errors, files
from vos_jax.data import pipeline
from vos_jax.models import vos
from vos_jax.train import checkpoints, optim, setup, state

DATASETS = ("default", "static", "davis", "youtube_vos")
"""Data sets in the order of the old array of lambdas."""

BRANCHES = {"match_projection": "projection", "log_temperature": "log_temperature", "null_cost": "null_cost"}
"""Old names in the root of the parameters, and new names in the branch "matcher"."""


def from_0_1(params: dict[str, Any]) -> dict[str, Any]:
    """Converts parameters, nested dicts, from the old layout to today's."""
    new = {name: value for name, value in params.items() if name not in (*BRANCHES, "lambda_logit")}
    new["matcher"] = {new_name: params[name] for name, new_name in BRANCHES.items()}
    lambdas = params["lambda_logit"]
    new["matcher"]["lambda_logit"] = {name: lambdas[i] for i, name in enumerate(DATASETS)}
    return new


def to_0_1(params: dict[str, Any]) -> dict[str, Any]:
    """Converts parameters with lambdas for `DATASETS` from today's layout to the old one."""
    old = {name: value for name, value in params.items() if name != "matcher"}
    old |= {name: params["matcher"][new_name] for name, new_name in BRANCHES.items()}
    lambdas = params["matcher"]["lambda_logit"]
    return {**old, "lambda_logit": np.stack([lambdas[name] for name in DATASETS])}


def repack(old: pathlib.Path, new: pathlib.Path) -> None:
    """Writes a weights file in today's layout, and its record if there is one.

    Raises:
      VosError: the file is not of version 0.1, or `new` exists.
    """
    if new.exists():
        raise errors.VosError(f"{new}: exists; choose another NEW")
    with safetensors.safe_open(old, framework="numpy") as opened:
        metadata = opened.metadata()
    flat = safetensors.numpy.load_file(old)
    if "lambda_logit" not in flat:
        raise errors.VosError(f"{old}: not of version 0.1: it has no lambda_logit")
    params = from_0_1(traverse_util.unflatten_dict(flat, sep="/"))
    tensors = {key: np.asarray(value) for key, value in traverse_util.flatten_dict(params, sep="/").items()}
    packed = safetensors.numpy.save(dict(sorted(tensors.items())), metadata=metadata)
    with files.atomic(new) as temporary:
        temporary.write_bytes(packed)
    if old.with_suffix(".json").is_file():
        record = files.read_json(old.with_suffix(".json"))
        record |= {"file": new.name, "sha256": hashlib.sha256(packed).hexdigest()}
        record["repacked"] = "python -m benchmarks.layout_0_1"
        with files.atomic(new.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n")


def repack_run(old: pathlib.Path, new: pathlib.Path, config: configs.Config, folders: Sequence[str]) -> int:
    """Writes the newest checkpoint of a run, and its curves, in today's layout; returns its step.

    Args:
      old: the run's --workdir.
      new: a folder that does not exist.
      config: of the run.
      folders: its --data.

    Raises:
      VosError: no checkpoint of version 0.1 in `old`, or `new` exists.
    """
    if new.exists():
        raise errors.VosError(f"{new}: exists; choose another NEW_WORKDIR")
    train = setup.apply_data(config.train, folders)
    params = vos.VOS(config=config.model).init(jax.random.key(0), DATASETS)
    tx = optim.make_tx(train.optim, params, train.steps)
    begun = state.init_train_state(params, tx, jax.random.key(config.seed))
    data = pipeline.make_pipeline(train.data, dataset_names=sorted(DATASETS), seed=config.seed)
    with checkpoints.Checkpoints(old, train.checkpoint) as saved:
        restored = saved.restore(_map_params(to_0_1, begun), data)
    if restored is None:
        raise errors.VosError(f"{old}: holds no checkpoint")
    record = dict(restored.record)
    step, score = record.pop("step"), record.pop("score")
    new.mkdir(parents=True)
    for file in old.glob("*.json*"):
        shutil.copy(file, new)
    with checkpoints.Checkpoints(new, train.checkpoint) as saved:
        saved.save(step, _map_params(from_0_1, restored.state), data, record=record, score=score)
    data.close()
    return step


def _map_params(change: Callable[[dict], dict], tree: Any) -> Any:
    """Returns a state with `change` applied to every tree of parameters."""

    def is_params(x: Any) -> bool:
        return isinstance(x, dict) and bool({"matcher", "lambda_logit"} & set(x))

    return jax.tree.map(lambda x: change(x) if is_params(x) else x, tree, is_leaf=is_params)


@errors.entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    parser.add_argument("--config", default="train_lite0")
    parser.add_argument("--data", nargs="+", default=[])
    rest, overrides = configs.split_arguments(sys.argv[1:])
    options = parser.parse_args(rest)
    if options.old.is_dir():
        config = configs.load(options.config, overrides)
        print(f"repacked step {repack_run(options.old, options.new, config, options.data)}")
    else:
        repack(options.old, options.new)


if __name__ == "__main__":
    main()
