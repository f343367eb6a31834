"""The paper's Figure 4: the objects of lowest J in a run, each in its worst frame."""

from collections.abc import Mapping, Sequence

import numpy as np

from vos_jax.data import mask_files
from vos_jax.data import video as video_lib
from vos_jax.evaluation import scoring
from vos_jax.typing import UInt8
from vos_jax.visualize import layout, overlay

WORST = 4


def draw(
    scores: Sequence[scoring.ObjectScore],
    videos: Mapping[str, video_lib.Video],
    mask_path,
    *,
    count: int = WORST,
) -> UInt8[np.ndarray, "H2 W2 3"] | None:
    """Draws the `count` objects of lowest mean J: frame, truth, prediction; None if nothing was scored.

    Args:
      scores: of the run.
      videos: by name.
      mask_path: returns the path of the mask of (sequence, frame name).
    """
    scored = sorted((score for score in scores if score.J.size), key=lambda score: score.J.mean())
    panels = []
    width = layout.panel_width(3)
    for score in scored[:count]:
        video = videos[score.sequence]
        index, measured = worst_frame(score, video)
        frame, truth = video.frame(index), video.mask(index)
        assert truth is not None  # scored frames are annotated
        found = mask_files.read_mask(mask_path(video.name, video.frame_names[index]), video.size)
        if video.merge_objects:
            found = np.minimum(found, 1)
        for text, picture in (
            (f"{video.name}, frame {index}", frame),
            (f"truth of object {score.object_id}", overlay.overlay(frame, _only(truth, score.object_id))),
            (
                f"found: J {measured:.2f} here, {score.J.mean():.2f} on average",
                overlay.overlay(frame, _only(found, score.object_id)),
            ),
        ):
            panels.append(layout.caption(layout.fit(picture, width), text))
    if not panels:
        return None
    return layout.grid(panels, columns=3, title="The worst objects of the run, each in its worst frame")


def worst_frame(score: scoring.ObjectScore, video: video_lib.Video) -> tuple[int, float]:
    """Returns the scored frame of lowest J, if possible one that shows the object, and its J."""
    frames = video.scored_frames(score.object_id)
    order = np.argsort(score.J, kind="stable")
    for at in order:
        if np.any(video.mask(frames[at]) == score.object_id):
            return frames[at], float(score.J[at])
    return frames[order[0]], float(score.J[order[0]])


def _only(ids: np.ndarray, object_id: int) -> np.ndarray:
    return np.where(ids == object_id, ids, 0).astype(np.uint8)
