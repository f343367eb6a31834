"""Several views of a video at once (smaller, larger, mirrored), merged on probabilities at its own size."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from vos_jax import errors, geometry
from vos_jax.inference import annotations as annotations_lib
from vos_jax.inference import config, tracked, tracker
from vos_jax.models import state as state_lib


class ViewsTracker:
    """Follows objects in every view and averages the probabilities (DESIGN §7: resized first, then argmax).

    Views are tracks of their own, with a memory each; the tracker, what it compiled and what the first view
    learned from the video are shared.

    Args:
      inner: the tracker that follows; it returns probabilities (`with_prob=True`).
      scales: sizes of the views, relative to that at which the inner tracker follows.
      flip: whether each view is followed mirrored, too.
    """

    def __init__(self, inner: tracker.Tracker, *, scales: Sequence[float] = (1.0,), flip: bool = False):
        self._inner = inner
        self._views = [(scale, mirrored) for scale in scales for mirrored in ((False, True)[: 1 + flip])]

    @classmethod
    def of_config(cls, inner: tracker.Tracker, inference: config.InferenceConfig) -> "ViewsTracker":
        """The views that a config's `inference` section asks for."""
        return cls(inner, scales=inference.scales, flip=inference.flip)

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
    ) -> Iterator[tracked.TrackedFrame]:
        """Yields every frame's result at the size of the frames; see `tracker.Tracker.track`."""
        annotations_lib.check(annotations, self._inner)
        count = len({int(i) for ids in annotations.values() for i in np.unique(ids) if i})
        tracks: list[tracker.Track] = []
        for index, frame in enumerate(frames):
            if not tracks:
                tracks = [self._inner.start(frame.shape[:2], count, scale=scale) for scale, _ in self._views]
                for track in tracks[1:]:
                    track.adapts = False
            ids = annotations.get(index)
            results = []
            for track, (_, mirrored) in zip(tracks, self._views, strict=True):
                seen, drawn = frame, ids
                if mirrored:
                    seen = np.ascontiguousarray(frame[:, ::-1])
                    drawn = None if ids is None else np.ascontiguousarray(ids[:, ::-1])
                results.append(track.step(seen, drawn))
            for track in tracks[1:]:
                track.learned = tracks[0].learned
            yield self._merge(results, ids)

    def _merge(
        self, results: Sequence[tracked.TrackedFrame], given: np.ndarray | None
    ) -> tracked.TrackedFrame:
        # Every view is given the same ids in the same order, so their planes agree.
        objects = list(results[0].presence)
        prob = np.zeros((len(objects) + 1, *results[0].ids.shape), np.float32)
        for result, (_, mirrored) in zip(results, self._views, strict=True):
            assert result.prob is not None  # the inner tracker returns probabilities
            prob += result.prob[:, :, ::-1] if mirrored else result.prob
        prob /= len(results)
        ids = np.array([0, *objects], np.uint8)[np.argmax(prob, axis=0)]
        if given is not None:
            ids = geometry.overwrite(ids, given)
        presence = {o: float(np.mean([result.presence[o] for result in results])) for o in objects}
        return tracked.TrackedFrame(ids=ids, presence=presence, prob=prob)


def needed(inference: config.InferenceConfig) -> bool:
    """Whether a config's `inference` section asks for more views than one."""
    return bool(inference.flip or tuple(inference.scales) != (1.0,))


def parse_scales(text: str) -> tuple[float, ...]:
    """Returns the scales of --scales; VosError where they are no numbers."""
    try:
        return tuple(float(scale) for scale in text.split(",") if scale.strip())
    except ValueError as error:
        raise errors.VosError(f"--scales {text}: takes numbers, like 0.75,1.0,1.25") from error


def check_size(size: tuple[int, int], inference: config.InferenceConfig) -> None:
    """Refuses frames of (height, width) pixels that some view would shrink to next to nothing; VosError."""
    for scale in inference.scales:
        geometry.working_size(size, inference.min_size, inference.max_size, scale)
