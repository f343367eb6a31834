"""Repacks parameters of version 0.1, whose matcher had no branch of its own and one array of lambdas.

    python -m benchmarks.layout_0_1 OLD.safetensors NEW.safetensors

writes the weights in today's layout, every tensor unchanged, and beside them the record with their new
checksum. `benchmarks.same_as` compares gradients across the two layouts by the same functions.
"""

import argparse
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from vos_jax import errors, files

DATASETS = ("default", "static", "davis", "youtube_vos")
"""Data sets in the order of the old array of lambdas."""

BRANCHES = {"match_projection": "projection", "log_temperature": "log_temperature", "null_cost": "null_cost"}
"""Old names in the root of the parameters, and new names in the branch "matcher"."""


def from_0_1(params: dict[str, Any]) -> dict[str, Any]:
    """Returns parameters of the old layout, nested dicts, in today's."""
    new = {name: value for name, value in params.items() if name not in (*BRANCHES, "lambda_logit")}
    new["matcher"] = {new_name: params[name] for name, new_name in BRANCHES.items()}
    lambdas = params["lambda_logit"]
    new["matcher"]["lambda_logit"] = {name: lambdas[i] for i, name in enumerate(DATASETS)}
    return new


def to_0_1(params: dict[str, Any]) -> dict[str, Any]:
    """Returns parameters of today's layout, with lambdas for `DATASETS`, in the old one."""
    old = {name: value for name, value in params.items() if name != "matcher"}
    old |= {name: params["matcher"][new_name] for name, new_name in BRANCHES.items()}
    lambdas = params["matcher"]["lambda_logit"]
    return {**old, "lambda_logit": np.stack([lambdas[name] for name in DATASETS])}


def repack(old: pathlib.Path, new: pathlib.Path) -> None:
    """Writes a weights file in today's layout, and its record where there is one.

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


@errors.entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    options = parser.parse_args()
    repack(options.old, options.new)


if __name__ == "__main__":
    main()
