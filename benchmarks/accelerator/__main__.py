"""Measures an accelerator, then trains on it until a deadline; the same command resumes.

    python -m benchmarks.accelerator --minutes 9 --out DIR
    python -m benchmarks.accelerator --minutes 9 --out DIR --train train_small2 --init lite0.safetensors
        --data static=packed/photos davis=packed/davis --config.train.data.workers=8
        --config.model.dtype=bfloat16

Runs in this order, one program at a time: peak rates of the device; a training step of the first batch and
its costliest kernels; a frame of a session; a training step of the other batches, if smaller ones fitted into
memory; and with --train, training. Each figure is added to DIR/figures.jsonl and figures.txt. A figure that
fails (out of memory, a compiler's error) is noted as failed, and the next one is measured. Figures in DIR of
the same device and settings are not measured again.

Training logs to DIR/curve.jsonl and writes the averaged weights and its state to files of at most 15 MiB
(benchmarks/accelerator/state_files.py describes the rounding). --data takes folders packed by `python -m
vos_jax.tools.pack_data`; reading them does not need tensorflow-datasets.
"""

import argparse
import dataclasses
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.accelerator import clock, figures, programs, state_files, training
from vos_jax import checkout, devices, errors, files
from vos_jax import config as configs
from vos_jax.train import setup

MEASURED = "train_small2"
BATCHES = (16, 32, 64, 128)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses the command line into options and config overrides."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, metavar="DIR", help="where figures and weights go")
    add("--minutes", type=float, default=9.0, help="for all of it")
    add("--train", metavar="CONFIG", help=f"also train by this config; without, {MEASURED} is measured")
    add("--init", metavar="imagenet|random|FILE", help="weights to begin with")
    add("--data", metavar="NAME=DIR", nargs="+", default=[], help="packed sources: davis=packed/davis")
    add("--batches", type=_numbers, metavar="N,N", help="in this order; default 16,32,64,128")
    add("--batch", type=int, help="to train with; default: the measured one of most clips per second")
    add("--size", type=_size, default=(480, 864), metavar="HxW", help="of the segmented frames")
    add("--frames", type=int, default=80, help="frames to segment; the last half is timed")
    add("--peaks", type=_numbers, metavar="N,MB", help="matrices of N x N, a copy of MB megabytes")
    add("--measure-minutes", type=float, help="no figure begins later; with --train half of --minutes")
    add("--reserve", type=float, default=60.0, help="seconds before the end at which training stops")
    add("--save-every", type=float, default=60.0, help="seconds between two writes of the state")
    add("--cache", type=pathlib.Path, metavar="DIR", help="of compiled programs; default: OUT/cache")
    rest, overrides = configs.split_arguments(arguments)
    options = parser.parse_args(rest)
    options.batches = options.batches or ((options.batch,) if options.batch else BATCHES)
    return options, overrides


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _size(text: str) -> tuple[int, int]:
    height, width = (int(part) for part in text.split("x"))
    return height, width


@errors.entry_point
def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options, overrides = parse(arguments)
    whole = clock.Clock(60 * options.minutes)
    half = options.minutes / 2 if options.train else options.minutes
    measuring = clock.Clock(60 * (options.measure_minutes or half), within=whole)

    # ---------------------------------------------------------------- config, folder, device
    config = configs.load(options.train or MEASURED, overrides)
    train = setup.apply_data(config.train, options.data)
    train = dataclasses.replace(train, init=options.init or train.init)
    config, batch = dataclasses.replace(config, train=train), options.batch
    _prepare(options.out, options.cache or options.out / "cache")
    flags = os.environ.get("XLA_FLAGS")
    device = f"{devices.choose(None)} x {jax.device_count()}, jax {jax.__version__}"
    device += f", XLA_FLAGS {flags}" if flags else ""
    commit = checkout.commit()
    _say(f"{device}; commit {commit or 'unknown'}")

    # ---------------------------------------------------------------- early checks
    before = state_files.noted_config(options.out) if options.train else None
    if before is not None:
        batch = batch or before["train.data.batch"]
        if changes := setup.changed(before, _noted(config, batch)):
            raise errors.VosError(
                f"{options.out}: its state is of another config ({'; '.join(changes[:5])}); use that config, "
                "or choose another --out"
            )
    program = training.Program(config)
    if options.train:
        program.make_data(batch or train.data.batch).close()

    # ---------------------------------------------------------------- figures
    found = figures.Figures(options.out, device, commit, _say)
    asked = {"config": options.train or MEASURED, "overrides": " ".join(sorted(overrides))}
    side, megabytes = options.peaks or ((8192, 2048) if jax.default_backend() != "cpu" else (2048, 256))
    found.measure(
        "peaks",
        {"side": side, "megabytes": megabytes},
        lambda: programs.device_peaks(side, megabytes),
        measuring,
    )
    rates, too_large = {}, float("inf")
    # One figure of each kind comes before more of one kind, because compiling takes most of the time.
    for index, size in enumerate(options.batches):
        if size >= too_large:
            continue
        row = found.measure(
            "training step",
            asked | {"batch": size},
            lambda size=size: programs.training_step(program, size),
            measuring,
        )
        if figures.out_of_memory(row):
            too_large = size
        if "values" in row:
            rates[size] = row["values"]["clips_per_second"]
        if index > 0:
            continue
        if rates:
            found.measure(
                "training kernels",
                asked | {"batch": size},
                lambda size=size: programs.training_kernels(program, size),
                measuring,
            )
        found.measure(
            "inference step",
            asked | {"size": list(options.size), "objects": 1, "frames": options.frames},
            lambda: programs.inference_step(program, options.size, options.frames),
            measuring,
        )

    # ---------------------------------------------------------------- training
    if options.train:
        if before is None:
            batch = batch or max(rates, key=lambda size: rates[size], default=train.data.batch)
        assert batch is not None  # an existing state has its batch size in its config
        noted = {
            "config": _noted(config, batch),
            "commit": commit,
            "command": shlex.join(["python", "-m", "benchmarks.accelerator", *arguments]),
        }
        deadline = clock.Clock(whole.left() - options.reserve)
        step = training.train(
            program,
            options.out,
            batch=batch,
            noted=noted,
            deadline=deadline,
            save_every=options.save_every,
            say=_say,
        )
        _say(f"trained to step {step} of {config.train.steps} with batches of {batch}")
    _say(f"{whole.left():.0f} s left; {options.out / 'figures.txt'}")


def _noted(config: configs.Config, batch: int) -> dict[str, Any]:
    """Returns the settings of the training with the chosen batch size."""
    return {**configs.flatten(config), "train.data.batch": batch}


def _say(line: str) -> None:
    print(line, flush=True)


def _prepare(out: pathlib.Path, cache: pathlib.Path) -> None:
    """Creates the folders; turns on the caches of JAX's programs and XLA's autotuning."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.VosError(f"{out}: cannot be made ({error.strerror}); choose another --out") from error
    files.remove_leftovers(out)
    jax.config.update("jax_compilation_cache_dir", str(cache.resolve()))
    jax.config.update("jax_persistent_cache_enable_xla_caches", "xla_gpu_per_fusion_autotune_cache_dir")


if __name__ == "__main__":
    sys.exit(main())
