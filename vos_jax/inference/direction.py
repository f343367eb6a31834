"""In which direction a video is followed from the frames that are annotated."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import cv2
import numpy as np

from vos_jax import errors
from vos_jax.inference import annotations as annotations_lib
from vos_jax.inference import tracked
from vos_jax.models import proposals as proposals_lib

Item = np.ndarray | tuple[np.ndarray, proposals_lib.Proposals]
"""A frame, or one with its proposals."""

Frames = Callable[[Iterable[int]], Iterator[Item]]
Annotations = Mapping[int, np.ndarray]
Indexed = Iterator[tuple[int, tracked.TrackedFrame]]


class Follower(annotations_lib.Bounded, Protocol):
    """What `tracker.Tracker` and `views.ViewsTracker` have in common."""

    @property
    def seconds(self) -> Mapping[str, float]: ...  # wall time so far, by kind

    def track(self, frames: Iterable[Any], annotations: Annotations) -> Iterator[tracked.TrackedFrame]: ...


def forward(
    follower: Follower, frames: Frames, length: int, size: tuple[int, int], annotations: Annotations
) -> Indexed:
    """Follows objects from their annotations to the end; before the first one all masks are empty.

    Frames before it are not even looked at: an object that is there but not yet known would be remembered as
    background.
    """
    first = min(annotations)
    for index in range(first):
        yield index, nothing(size)
    ahead = {index - first: ids for index, ids in annotations.items()}
    yield from enumerate(follower.track(frames(range(first, length)), ahead), first)


def backward(
    follower: Follower, frames: Frames, length: int, size: tuple[int, int], annotations: Annotations
) -> Indexed:
    """Follows objects from their annotations to the beginning; after the last one all masks are empty."""
    last = max(annotations)
    for index in range(length - 1, last, -1):
        yield index, nothing(size)
    tracked = follower.track(frames(range(last, -1, -1)), reverse(annotations))
    yield from zip(range(last, -1, -1), tracked, strict=True)


def both(
    follower: Follower, frames: Frames, length: int, size: tuple[int, int], annotations: Annotations
) -> Indexed:
    """Follows objects from their annotations to the end, then from there to the beginning.

    The way back begins at the last annotated frame, with all that is known in it. Between the first and the
    last annotated frame, an object comes from the way back only before its first annotation, and only where
    the way forth saw background; until then masks wait as PNGs of some kilobytes.
    """
    first, last = min(annotations), max(annotations)
    starts: dict[int, int] = {}
    for index in sorted(annotations):
        for object_id in np.unique(annotations[index]).tolist():
            starts.setdefault(object_id, index)
    waiting: dict[int, tuple[bytes, dict[int, float]]] = {}
    known = annotations[last]
    for index, result in forward(follower, frames, length, size, annotations):
        if index >= last:
            known = result.ids if index == last else known
            yield index, result
        elif index >= first:
            waiting[index] = cv2.imencode(".png", result.ids)[1].tobytes(), result.presence
    for index, result in backward(follower, frames, last + 1, size, {**annotations, last: known}):
        if index < first:
            yield index, result
        elif index < last:
            encoded, presence = waiting.pop(index)
            ids = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
            later = {o: sure for o, sure in result.presence.items() if starts[o] > index}
            assert ids is not None  # it was encoded above
            fills = (ids == 0) & np.isin(result.ids, list(later))
            ids = np.where(fills, result.ids, ids).astype(np.uint8)
            yield index, tracked.TrackedFrame(ids=ids, presence=presence | later)


def nothing(size: tuple[int, int]) -> tracked.TrackedFrame:
    """Returns the result of a frame that shows no known object."""
    return tracked.TrackedFrame(ids=np.zeros(size, np.uint8), presence={})


DIRECTIONS = {"forward": forward, "backward": backward, "both": both}


def reverse(annotations: Annotations) -> dict[int, np.ndarray]:
    """The annotations as a track meets them that begins at the last one and runs backward."""
    last = max(annotations, default=0)
    return {last - index: annotations[index] for index in sorted(annotations, reverse=True)}


def check(annotations: Annotations, follower: Follower, direction: str, save_probabilities: bool) -> None:
    """Refuses before work starts what would fail in mid-video.

    Raises:
      VosError: as `annotations_lib.check`, in every direction that is asked for; probabilities of two
        passes that overlap.
    """
    if direction != "backward":
        annotations_lib.check(annotations, follower)
    if direction != "forward":
        annotations_lib.check(reverse(annotations), follower)
    if direction == "both" and save_probabilities and len(annotations) > 1:
        raise errors.VosError(
            f"--save_probabilities with --direction both takes videos annotated in one frame; this one is in "
            f"{len(annotations)}"
        )
