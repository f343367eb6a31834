"""The report of a run: results.json and the official CSV files."""

import pathlib
from collections.abc import Mapping
from typing import Any

from vos_jax import files
from vos_jax.data import datasets
from vos_jax.evaluation import davis_csv

NAME = "results.json"


def names(split: str) -> tuple[str, ...]:
    """Returns the names of the files that `write` writes."""
    return NAME, *davis_csv.names(split)


def make(
    dataset: datasets.VideoDataset,
    settings: Mapping[str, Any],
    summary: dict,
    frames: int,
    speed: dict,
    seconds: dict,
    device: str | None,
    checkpoint: str | None,
    presence: dict | None,
) -> dict:
    """Returns what results.json holds; `settings` are all settings by dotted key.

    `speed`, `device`, `checkpoint` and `presence` are None where nothing was segmented.
    """
    return {
        "dataset": dataset.name,
        "split": dataset.split,
        **summary,
        "frames": frames,
        **speed,
        "seconds": seconds,
        "device": device,
        "checkpoint": checkpoint,
        "config": dict(settings),
        "presence": presence,
    }


def write(dataset: datasets.VideoDataset, out: pathlib.Path, results: dict) -> None:
    """Writes OUT/results.json and, where there is a score, the official CSV files."""
    files.write_json(out / NAME, results)
    davis_csv.write(out, dataset.split, results)
