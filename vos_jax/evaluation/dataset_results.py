"""The place of a data set's videos in a results folder, and the folders that they are read from."""

import hashlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vos_jax.data import datasets, proposal_files
from vos_jax.data import video as video_lib
from vos_jax.inference import result_store, video_results
from vos_jax.models import proposals as proposals_lib


def settings(flat: Mapping[str, Any], checkpoint: str, version: str) -> dict[str, Any]:
    """Returns the settings that decide what the masks of all videos look like.

    Args:
      flat: all settings by dotted key.
      checkpoint: the file of the weights, whose content counts, or a label.
      version: of this program.
    """
    if (weights := pathlib.Path(checkpoint)).is_file():
        checkpoint = hashlib.sha256(weights.read_bytes()).hexdigest()
    all_frames = bool(flat["data.all_frames"])
    sections = ("data.", "model.", "inference.", "seed")
    return result_store.run_settings(
        flat, sections, checkpoint=checkpoint, all_frames=all_frames, version=version
    )


def inputs(
    data: datasets.DatasetConfig, proposals: proposals_lib.ProposalConfig, chosen: Iterable[video_lib.Video]
) -> list[pathlib.Path]:
    """Returns the folders that are read: the data set, where its links lead to, and the proposals."""
    folders = [data.root, data.all_frames, proposals.folder if proposals.source == "file" else ""]
    found = {pathlib.Path(folder) for folder in folders if folder}
    for video in chosen:
        if isinstance(video, video_lib.FolderVideo):
            files = [*video.frame_paths[:1], *list(video.mask_paths.values())[:1]]
            found |= {path.parent for path in files}
    return sorted(found)


def open_results(
    store: result_store.ResultStore,
    video: video_lib.Video,
    *,
    proposals: str | None = None,
    soft: bool = False,
    stages: Sequence[str] = (),
) -> video_results.VideoResults:
    """Returns the results of a data set's video.

    Args:
      store: the results folder.
      video: its given masks decide, with the store's settings, what its results look like.
      proposals: folder of the proposal files; None: proposals do not come from files.
      soft: whether probabilities are written, too.
      stages: names of the stages whose masks are written, too.

    Raises:
      VosError: masks of other settings or of another program are there.
    """
    prompts, required = video.prompts(), frozenset(video.required)
    own: dict[str, Any] = {"prompts": result_store.prompt_settings(prompts)}
    if proposals is not None:
        path = proposal_files.path_of(proposals, video.name)
        own["proposals_read"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return store.video(
        video.name,
        video.size,
        lambda index: video.frame_names[index] if index in required else None,
        num_frames=len(video),
        settings=own,
        first=min(prompts),
        soft=soft,
        stages=stages,
    )
