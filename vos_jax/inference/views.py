"""Several views of a video at once (smaller, larger, mirrored), merged on probabilities at its own size."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import cv2
import numpy as np
from ml_collections import config_dict

from vos_jax import errors
from vos_jax.inference import tracker
from vos_jax.models import state as state_lib
from vos_jax.typing import Float, UInt8

MIN_SIDE = 16
"""A view with a shorter side holds no feature to speak of and is refused."""


class ViewsTracker:
    """Follows objects in every view and averages the probabilities (DESIGN §7: resized first, then argmax).

    Views are tracks of their own, with a memory each; the tracker and what it compiled are shared.

    Args:
      inner: the tracker that follows; it returns probabilities (`with_prob=True`).
      max_size: frames with a longer short side are shrunk to it; 0: none are.
      scales: sizes of the views, relative to that.
      flip: whether each view is followed mirrored, too.
    """

    def __init__(
        self,
        inner: tracker.Tracker,
        *,
        max_size: int = 0,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ):
        self._inner = inner
        self._max_size = max_size
        self._views = [(scale, mirrored) for scale in scales for mirrored in ((False, True)[: 1 + flip])]

    @classmethod
    def of_config(cls, inner: tracker.Tracker, inference: config_dict.ConfigDict) -> "ViewsTracker":
        """The views that a config's `inference` section asks for."""
        return cls(inner, max_size=inference.max_size, scales=inference.scales, flip=inference.flip)

    @property
    def seconds(self) -> Mapping[str, float]:
        """As the inner tracker's."""
        return self._inner.seconds

    @property
    def model(self) -> state_lib.Model:
        """The inner tracker's model."""
        return self._inner.model

    def bucket(self, num_objects: int) -> int:
        """As the inner tracker's."""
        return self._inner.bucket(num_objects)

    def track(
        self, frames: Iterable[np.ndarray], annotations: Mapping[int, np.ndarray]
    ) -> Iterator[tracker.TrackedFrame]:
        """Yields every frame's result at the size of the frames; see `tracker.Tracker.track`."""
        tracker.check_annotations(annotations, self._inner)
        count = len({int(i) for ids in annotations.values() for i in np.unique(ids) if i})
        tracks: list[tracker.Track] = []
        for index, frame in enumerate(frames):
            size = frame.shape[:2]
            if not tracks:
                sizes = [view_size(size, self._max_size, scale) for scale, _ in self._views]
                tracks = [self._inner.start(view, count) for view in sizes]
            ids = annotations.get(index)
            results = []
            for track, (_, mirrored) in zip(tracks, self._views, strict=True):
                seen = resize_frame(frame, track.size)
                drawn = None if ids is None else resize_ids(ids, track.size)
                if mirrored:
                    seen, drawn = seen[:, ::-1], None if drawn is None else drawn[:, ::-1]
                results.append(track.step(np.ascontiguousarray(seen), drawn))
            yield self._merge(results, size, ids)

    def _merge(
        self, results: Sequence[tracker.TrackedFrame], size: tuple[int, int], given: np.ndarray | None
    ) -> tracker.TrackedFrame:
        # Every view is given the same ids in the same order, so their planes agree.
        objects = list(results[0].presence)
        prob = np.zeros((len(objects) + 1, *size), np.float32)
        for result, (_, mirrored) in zip(results, self._views, strict=True):
            assert result.prob is not None  # the inner tracker returns probabilities
            planes = result.prob[:, :, ::-1] if mirrored else result.prob
            for plane, total in zip(planes, prob, strict=True):
                total += resize_plane(plane, size)
        prob /= len(results)
        ids = np.array([0, *objects], np.uint8)[np.argmax(prob, axis=0)]
        if given is not None:
            ids = tracker.stamp(ids, given)
        presence = {o: float(np.mean([result.presence[o] for result in results])) for o in objects}
        return tracker.TrackedFrame(ids=ids, presence=presence, prob=prob)


def needed(inference: config_dict.ConfigDict) -> bool:
    """Whether a config's `inference` section asks for anything but each frame as it is."""
    return bool(inference.max_size or inference.flip or tuple(inference.scales) != (1.0,))


def configure(
    inference: config_dict.ConfigDict, max_size: int | None, scales: str | None, flip: bool
) -> None:
    """Writes the command line's options into a config's `inference` section; VosError for wrong ones."""
    if max_size is not None:
        inference.max_size = max_size
    if scales is not None:
        try:
            inference.scales = tuple(float(scale) for scale in scales.split(",") if scale.strip())
        except ValueError as error:
            raise errors.VosError(f"--scales {scales}: takes numbers, like 0.75,1.0,1.25") from error
    inference.flip = inference.flip or flip
    if not inference.scales or not all(0.1 <= scale <= 10 for scale in inference.scales):
        raise errors.VosError(f"--scales {scales or inference.scales}: takes numbers from 0.1 to 10")
    if inference.max_size < 0:
        raise errors.VosError(f"--max_size {inference.max_size}: takes a number of pixels")


def check_size(size: tuple[int, int], inference: config_dict.ConfigDict) -> None:
    """Refuses frames of (height, width) pixels that some view would shrink to next to nothing; VosError."""
    for scale in inference.scales:
        view_size(size, inference.max_size, scale)


def view_size(size: tuple[int, int], max_size: int, scale: float) -> tuple[int, int]:
    """The size of a view of a frame of (height, width) pixels.

    Raises:
      VosError: a side would have fewer than MIN_SIDE pixels.
    """
    factor = scale * (min(1.0, max_size / min(size)) if max_size else 1.0)
    height, width = (round(factor * side) for side in size)
    if factor != 1.0 and min(height, width) < MIN_SIDE:
        raise errors.VosError(
            f"frames of {size[1]}x{size[0]} would be followed at {width}x{height} (width x height); "
            f"--max_size and --scales must leave {MIN_SIDE} pixels a side"
        )
    return height, width


def resize_frame(frame: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Resizes a frame: averaged where it shrinks, bicubic where it grows."""
    if frame.shape[:2] == tuple(size):
        return frame
    shrinks = size[0] < frame.shape[0]
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def resize_plane(plane: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Resizes probabilities bilinearly, half-pixel aligned."""
    plane = np.ascontiguousarray(plane, np.float32)
    return plane if plane.shape == tuple(size) else cv2.resize(plane, size[::-1])


def resize_ids(ids: UInt8[np.ndarray, "H W"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Resizes ids: of each pixel, the one that covers most of it; no object is lost, however small.

    Of an object that covers most of no pixel, the pixel stays that it covers best.
    """
    if ids.shape == tuple(size):
        return ids
    present = np.union1d(np.unique(ids), [0])
    shrinks = size[0] < ids.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    shares = np.stack(
        [cv2.resize((ids == i).astype(np.float32), size[::-1], interpolation=interpolation) for i in present]
    )
    winner = np.argmax(shares, axis=0)
    for index in range(1, len(present)):
        if not np.any(winner == index):
            winner.flat[np.argmax(shares[index])] = index
    return present[winner].astype(np.uint8)
