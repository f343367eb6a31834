"""In which direction a video is followed from the frames that are annotated."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import cv2
import numpy as np

from vos_jax import errors
from vos_jax.inference import tracker

Frames = Callable[[Iterable[int]], Iterator[np.ndarray]]
Annotations = Mapping[int, np.ndarray]
Indexed = Iterator[tuple[int, tracker.TrackedFrame]]


class Follower(Protocol):
    """What `tracker.Tracker` and `views.ViewsTracker` have in common."""

    seconds: Mapping[str, float]

    def track(
        self, frames: Iterable[np.ndarray], annotations: Annotations
    ) -> Iterator[tracker.TrackedFrame]: ...


def forward(
    follower: Follower, frames: Frames, length: int, size: tuple[int, int], annotations: Annotations
) -> Indexed:
    """Follows objects from their annotations to the end; before them their masks are empty."""
    del size
    yield from enumerate(follower.track(frames(range(length)), annotations))


def backward(
    follower: Follower, frames: Frames, length: int, size: tuple[int, int], annotations: Annotations
) -> Indexed:
    """Follows objects from their annotations to the beginning; after them their masks are empty."""
    last = max(annotations)
    nothing = tracker.TrackedFrame(ids=np.zeros(size, np.uint8), presence={})
    for index in range(length - 1, last, -1):
        yield index, nothing
    tracked = follower.track(frames(range(last, -1, -1)), reverse(annotations))
    yield from zip(range(last, -1, -1), tracked, strict=True)


def both(
    follower: Follower, frames: Frames, length: int, size: tuple[int, int], annotations: Annotations
) -> Indexed:
    """Follows objects from their annotations to both ends, first backward, then forward.

    Where annotations lie in several frames, an object is taken from the backward pass only before its first
    annotation, and only where the forward pass sees background. Such masks wait as PNGs of some kilobytes.
    """
    first, last = min(annotations), max(annotations)
    starts: dict[int, int] = {}
    for index in sorted(annotations):
        for object_id in np.unique(annotations[index]).tolist():
            starts.setdefault(object_id, index)
    waiting: dict[int, tuple[bytes, dict[int, float]]] = {}
    for index, result in backward(follower, frames, last + 1, size, annotations):
        if index < first:
            yield index, result
        elif index < last:
            later = [o for o in result.presence if starts[o] > index]
            ids = np.where(np.isin(result.ids, later), result.ids, 0).astype(np.uint8)
            encoded = cv2.imencode(".png", ids)[1].tobytes()
            waiting[index] = encoded, {o: result.presence[o] for o in later}
    ahead = {index - first: ids for index, ids in annotations.items()}
    for offset, result in enumerate(follower.track(frames(range(first, length)), ahead)):
        index = first + offset
        if index in waiting:
            encoded, presence = waiting.pop(index)
            ids = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
            ids = np.where(result.ids > 0, result.ids, ids)
            result = tracker.TrackedFrame(ids=ids, presence=result.presence | presence)
        yield index, result


DIRECTIONS = {"forward": forward, "backward": backward, "both": both}


def reverse(annotations: Annotations) -> dict[int, np.ndarray]:
    """The annotations as a track meets them that begins at the last one and runs backward."""
    last = max(annotations, default=0)
    return {last - index: annotations[index] for index in sorted(annotations, reverse=True)}


def check(
    annotations: Annotations, follower: tracker.Tracker, direction: str, save_probabilities: bool
) -> None:
    """Refuses before work starts what would fail in mid-video.

    Raises:
      VosError: as `tracker.check_annotations`, in every direction that is asked for; probabilities of two
        passes that overlap.
    """
    if direction != "backward":
        tracker.check_annotations(annotations, follower)
    if direction != "forward":
        tracker.check_annotations(reverse(annotations), follower)
    if direction == "both" and save_probabilities and len(annotations) > 1:
        raise errors.VosError(
            f"--save_probabilities with --direction both takes videos annotated in one frame; this one is in "
            f"{len(annotations)}"
        )
