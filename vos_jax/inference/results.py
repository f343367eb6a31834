"""What is said of a whole run: results.json, the official CSV files, the printed table."""

import pathlib

from rich import console as rich_console

from vos_jax import config as configs
from vos_jax import files
from vos_jax.data import datasets
from vos_jax.metrics import davis_csv
from vos_jax.visualize import console

NAME = "results.json"


def names(split: str) -> tuple[str, ...]:
    """Returns the names of the files that `write` writes."""
    return NAME, *davis_csv.names(split)


def make(
    dataset: datasets.VideoDataset,
    config: configs.Config,
    summary: dict,
    frames: int,
    speed: dict,
    seconds: dict,
    device: str | None,
    checkpoint: str | None,
    presence: dict | None,
) -> dict:
    """What results.json holds; speed, device, checkpoint, presence are None where nothing was segmented."""
    return {
        "dataset": dataset.name,
        "split": dataset.split,
        **summary,
        "frames": frames,
        **speed,
        "seconds": seconds,
        "device": device,
        "checkpoint": checkpoint,
        "config": configs.flatten(config),
        "presence": presence,
    }


def write(
    screen: rich_console.Console, dataset: datasets.VideoDataset, out: pathlib.Path, results: dict
) -> None:
    """OUT/results.json, the official CSV files where there is a score, and the printed table."""
    files.write_json(out / NAME, results)
    davis_csv.write(out, dataset.split, results)
    console.print_results(screen, results)
    screen.print(f"masks and results.json: {out}")
