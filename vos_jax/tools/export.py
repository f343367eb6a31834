"""Exports the weights of a training run as one file.

    python -m vos_jax.tools.export runs/davis vos_jax/weights/lite0.safetensors
    python eval.py --config davis17 --checkpoint vos_jax/weights/lite0.safetensors

takes the averaged (EMA) weights of the best checkpoint and writes OUT and OUT's record (JSON): config, data,
step, score, commit, the file's sha256, and further entries from `--note KEY=TEXT`, such as licences.

    python -m vos_jax.tools.export --stablehlo OUT.zip --size 480x854 --objects 3

writes a model as programs that only need JAX; see vos_jax/tools/stablehlo.py.
"""

import argparse
import hashlib
import json
import pathlib
import sys
import types
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy
from flax import traverse_util

from vos_jax import errors, option_parser, output_folder, weights_io
from vos_jax.train import checkpoints

SOURCES = "train.data.sources."
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


def export(
    workdir: pathlib.Path,
    out: pathlib.Path,
    *,
    which: str = "best",
    dtype: str = "bfloat16",
    notes: Mapping[str, str] = types.MappingProxyType({}),
) -> dict:
    """Writes the weights of one checkpoint to `out` and returns their record.

    Dense kernels are cast to `dtype`. Biases, depthwise kernels and scalars stay float32: they are few, but
    cause most of the error in bfloat16 (see vos_jax/tools/convert.py).

    Args:
      workdir: a run of train.py, finished or not.
      out: ends in .safetensors; its record is `out` with .json.
      which: "best", "last" or a step.
      dtype: of the dense kernels.
      notes: additional entries of the record.

    Raises:
      VosError: no such checkpoint, a damaged one, weights that are not finite, a note with the name of an
        entry of the record, a file at `out` that this program did not write, or `out` cannot be written.
    """
    if out.suffix != ".safetensors":
        raise errors.VosError(f"{out}: exported weights are .safetensors; name OUT.safetensors")
    output_folder.check_apart(out, [workdir / checkpoints.FOLDER], "OUT")
    weights_io.check_free(out)
    step, noted = checkpoints.find(workdir, which)
    return save(
        checkpoints.load_ema(workdir, step),
        out,
        noted={**noted, "step": step},
        dtype=dtype,
        notes=notes,
        where=f"{workdir}: checkpoint {step}",
    )


def save(
    ema: Any,
    out: pathlib.Path,
    *,
    noted: Mapping[str, Any],
    dtype: str = "bfloat16",
    notes: Mapping[str, str] = types.MappingProxyType({}),
    where: str = "these weights",
) -> dict:
    """Writes averaged weights to `out` and their record next to it; returns the record.

    Args:
      ema: nested dicts of arrays on the host.
      out, dtype, notes: as for `export`.
      noted: "step", "score" (or None) and "config", and if known "commit" and "command".
      where: name of the weights in errors.

    Raises:
      VosError: as `export`.
    """
    if out.suffix != ".safetensors":
        raise errors.VosError(f"{out}: exported weights are .safetensors; name OUT.safetensors")
    step = noted["step"]
    flat = traverse_util.flatten_dict(ema, sep="/")
    tensors = {key: _narrow(np.asarray(value, np.float32), dtype) for key, value in sorted(flat.items())}
    for key, value in tensors.items():
        if not np.isfinite(value.astype(np.float32)).all():
            raise errors.VosError(f"{where}: {key} is not finite; export another one")
    try:
        described = _described(noted)
    except (KeyError, TypeError, AttributeError) as error:
        raise errors.VosError(
            f"{where}: its config is damaged or of another version ({error}); export another one"
        ) from error
    variant = described["variant"]
    # The metadata says which model the tensors are of; everything else is in the record.
    model = {key: value for key, value in described["config"].items() if key.startswith("model.")}
    metadata = {"variant": variant, "step": str(step), "model": json.dumps(model, sort_keys=True)}
    packed = safetensors.numpy.save(tensors, metadata=metadata)
    record = {
        "variant": variant,
        "file": out.name,
        "sha256": hashlib.sha256(packed).hexdigest(),
        "dtype": f"{dtype}; biases, depthwise kernels and scalars float32",
        "parameters": int(sum(value.size for value in tensors.values())),
        "weights": "exponential moving average",
        "step": step,
        **described,
    }
    if taken := sorted(set(notes) & {*record, "checksum", "replaces"}):
        raise errors.VosError(f"--note {taken[0]}: the record has this entry already; choose another name")
    return weights_io.save(out, packed, {**record, **notes})


def _narrow(value: np.ndarray, dtype: str) -> np.ndarray:
    # Depthwise kernels are [k, k, C] or [k, k, 1, C].
    dense = value.ndim == 2 or (value.ndim == 4 and value.shape[2] > 1)
    return value.astype(DTYPES[dtype]) if dense else value


def _described(noted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record's entries about the run."""
    config = noted["config"]
    score = None
    if noted["score"] is not None:
        sequences = config["train.held_out.sequences"]
        score = {"J": noted["score"], "on": "sequences held back from training", "sequences": sequences}
    return {
        "variant": str(config["model.variant"]),
        "score": score,
        "data": {
            name: {
                key: config[f"{SOURCES}{name}.{key}"] for key in ("kind", "weight", "exclude", "dataset_name")
            }
            for name in sorted({key.removeprefix(SOURCES).split(".")[0] for key in config if SOURCES in key})
            if config[f"{SOURCES}{name}.weight"] > 0
        },
        "commit": noted.get("commit"),
        "command": noted.get("command"),
        "config": config,
    }


@errors.entry_point
def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--stablehlo" in arguments:
        from vos_jax.tools import stablehlo

        stablehlo.main([argument for argument in arguments if argument != "--stablehlo"])
        return
    parser = option_parser.OptionParser(
        prog="python -m vos_jax.tools.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", type=pathlib.Path, help="--workdir of a run of train.py")
    parser.add_argument("out", type=pathlib.Path, help="file to write; ends in .safetensors")
    parser.add_argument("--checkpoint", default="best", metavar="best|last|STEP")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16", help="of the dense kernels")
    parser.add_argument(
        "--note", action="append", default=[], metavar="KEY=TEXT", help="an entry of the record"
    )
    args = parser.parse_args(arguments)
    checkpoints.be_quiet()
    if wrong := [note for note in args.note if "=" not in note.lstrip("=")]:
        raise errors.VosError(f"--note {wrong[0]}: write --note KEY=TEXT, e.g. --note licence='CC BY-NC 4.0'")
    notes = dict(note.split("=", 1) for note in args.note)
    record = export(args.workdir, args.out, which=args.checkpoint, dtype=args.dtype, notes=notes)
    score = f", held-back J {record['score']['J']:.4f}" if record["score"] else ""
    if not record["step"]:
        start = record["config"].get("train.init", "")
        untrained = " of random weights" if start in ("random", "imagenet") else ""
        print(
            f"untrained: step 0 is the start of the run ({start}){untrained}, before any step; --checkpoint "
            "last takes the newest one",
            file=sys.stderr,
        )
    what = f"{record['parameters']:,} parameters of {record['variant']}, step {record['step']}"
    print(f"{args.out}: {what}{score}")


if __name__ == "__main__":
    sys.exit(main())
