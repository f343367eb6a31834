"""What decides how result masks look: a run's settings, by which it knows its own results again."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import vos_jax
from vos_jax import config as configs
from vos_jax.data import proposal_files
from vos_jax.data import video as video_lib

PLACES = ("eval.", "data.root", "data.sequences", "data.seen", "model.proposals.folder")
"""Keys that say where things lie, not how masks look."""


def of_run(config: configs.Config, checkpoint: str) -> dict[str, Any]:
    """Returns the settings but for places, the weights themselves, and our version."""
    flat = {key: value for key, value in configs.flatten(config).items() if not key.startswith(PLACES)}
    flat["data.all_frames"] = bool(config.data.all_frames)
    if (path := pathlib.Path(checkpoint)).is_file():
        checkpoint = hashlib.sha256(path.read_bytes()).hexdigest()
    return {**flat, "checkpoint": checkpoint, "version": vos_jax.__version__}


def of_sequences(folder: str, videos: Sequence[video_lib.Video]) -> dict[str, dict[str, str]]:
    """What decides how a sequence's masks look besides: by sequence, its proposals themselves."""
    paths = {video.name: proposal_files.path_of(folder, video.name) for video in videos}
    return {
        name: {"proposals_read": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in paths.items()
    }
