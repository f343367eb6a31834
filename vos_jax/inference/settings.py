"""What decides how result masks look: a run's settings, by which it knows its own results again."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import config_dict

import vos_jax
from vos_jax import config as configs
from vos_jax.data import proposal_files, sources


def of_run(config: config_dict.ConfigDict, checkpoint: str) -> dict[str, Any]:
    """The config but for places, the weights themselves, our version."""
    plain = configs.as_dict(config)
    del plain["eval"], plain["data"]["root"], plain["data"]["sequences"], plain["data"]["seen"]
    del plain["model"]["proposals_dir"]
    plain["data"]["all_frames"] = bool(plain["data"]["all_frames"])
    if (path := pathlib.Path(checkpoint)).is_file():
        checkpoint = hashlib.sha256(path.read_bytes()).hexdigest()
    return {**plain, "checkpoint": checkpoint, "version": vos_jax.__version__}


def of_sequences(
    config: config_dict.ConfigDict, videos: Sequence[sources.Video]
) -> dict[str, dict[str, str]]:
    """What decides how a sequence's masks look besides: by sequence, its proposals themselves."""
    paths = {video.name: proposal_files.path_of(config.model.proposals_dir, video.name) for video in videos}
    return {
        name: {"proposals_read": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in paths.items()
    }
