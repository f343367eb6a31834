"""Doors that take a folder, of which one file is damaged or lost: packed data sets, a run's checkpoints."""

import io
import pathlib
import shutil
import zipfile
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tests.data import tiny_training
from vos_jax import config as configs
from vos_jax.data import datasets
from vos_jax.tools import builders, export
from vos_jax.train import checkpoints


class Folder:
    """An input is the folder packed as a zip.

    Args:
      make: fills a new folder.
      read: reads a folder like it; raises VosError where it is refused.
    """

    def __init__(self, make: Callable[[pathlib.Path], object], read: Callable[[pathlib.Path], object]):
        self._make, self._read = make, read

    def seeds(self, folder: pathlib.Path) -> list[bytes]:
        made = folder / "made"
        made.mkdir()
        self._make(made)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted(p for p in made.rglob("*") if p.is_file()):
                archive.write(path, path.relative_to(made))
        return [packed.getvalue()]

    def read(self, path: pathlib.Path) -> None:
        folder = path.parent / "unpacked"
        shutil.rmtree(folder, ignore_errors=True)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        self._read(folder)


def make_records(folder: pathlib.Path) -> None:
    videos = tiny_training.write_davis(folder.parent / "videos", sequences=2, frames=3)
    builders.pack(datasets.SourceConfig(root=str(videos)), folder, name="videos")


def read_records(folder: pathlib.Path) -> None:
    source = datasets.SourceConfig(kind="array_record", root=str(folder))
    for video in datasets.open_training_videos(source):
        video.frame(len(video) - 1)
        for index in video.annotated:
            video.mask(index)


def make_run(folder: pathlib.Path) -> None:
    state = {"ema": {"a": {"kernel": jnp.ones((3, 3, 4, 4)), "bias": jnp.zeros(4)}}, "step": jnp.int32(1)}
    state["key"] = jax.random.key_data(jax.random.key(0))
    config = configs.flatten(configs.load("train_davis"))
    with checkpoints.Checkpoints(folder, checkpoints.CheckpointConfig()) as saved:
        for step in (1, 2):
            saved.save(step, state, {"position": 7}, record={"config": config}, score=0.5 + step)


def read_run(folder: pathlib.Path) -> None:
    checkpoints.last_record(folder)
    export.export(folder, folder / "out.safetensors")
