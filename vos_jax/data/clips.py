"""Clips of training videos: choice of the frames, decoding, and the arrays for a training step."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypedDict

import cv2
import numpy as np

from vos_jax import checks, errors
from vos_jax.data import origins as origins_lib
from vos_jax.data import transforms
from vos_jax.data import video as video_lib
from vos_jax.typing import Bool, Float, Int, UInt8


@dataclasses.dataclass(frozen=True, kw_only=True)
class GapSchedule:
    """Maximum number of frames skipped between two frames of a clip, as a function of the step.

    Attributes:
      start: Value at `begin_step` and before.
      end: Value at `end_step` and after; linear in between.
      begin_step: Step at which the change begins.
      end_step: Step at which the change ends.
    """

    start: int = 0
    end: int = 25
    begin_step: int = 0
    end_step: int = 10_000

    def __post_init__(self):
        checks.at_least(self, 0, "start", "end", "begin_step", "end_step")

    def __call__(self, step: int) -> int:
        """Returns the gap at `step`, a whole number of frames."""
        run = max(1, self.end_step - self.begin_step)
        share = min(1.0, max(0.0, (step - self.begin_step) / run))
        return round(self.start + share * (self.end - self.start))


def choose_frames(
    frames: int,
    start_candidates: Int[np.ndarray, "A"],
    holds: Callable[[int], bool],
    *,
    length: int,
    max_gap: int,
    rng: np.random.Generator,
) -> list[int]:
    """Draws the frames of a clip: the first shows an object, 0..max_gap frames are skipped between two.

    If the drawn distances do not fit after any frame with an object, consecutive frames are used; if these do
    not fit either, the clip is shorter than `length`, with at least two frames.

    Args:
      frames: number of frames to draw from, numbered 0..frames−1.
      start_candidates: numbers of the frames that may be first.
      holds: returns whether a start candidate shows an object (reads its mask).
      length: frames of a full clip.
      max_gap: maximum number of frames skipped.
      rng: source of the draws.

    Returns:
      ascending frame numbers.

    Raises:
      UnusableClip: no start candidate with a successor shows an object.
    """
    if frames < 2:
        raise transforms.UnusableClip("a clip needs two frames")
    count = min(length, frames)
    # Limits the distances so that `count` frames fit.
    reach = min(max_gap + 1, (frames - 1) // (count - 1))
    drawn = rng.integers(1, reach + 1, count - 1)
    known: dict[int, bool] = {}
    for steps in (drawn, np.ones(count - 1, int), np.ones(1, int)):
        offsets = np.concatenate([[0], np.cumsum(steps)])
        for first in rng.permutation(start_candidates[start_candidates + offsets[-1] < frames]).tolist():
            if first not in known:
                known[first] = holds(first)
            if known[first]:
                if len(steps) < count - 1:
                    return list(range(first, min(first + count, frames)))
                return (first + offsets).tolist()
    raise transforms.UnusableClip("no annotated frame before the last one shows an object")


def load_clip(
    video: video_lib.Video, *, length: int, max_gap: int, unannotated: bool, key: transforms.Key
) -> transforms.View:
    """Draws and decodes one clip of a video.

    Args:
      video: to draw from.
      length: frames of a clip.
      max_gap: maximum number of frames skipped between two, counted among the frames to draw from.
      unannotated: draw from all frames, not only from those with a mask.
      key: source of all draws.

    Raises:
      VosError: a file cannot be read, or a mask's size differs from its frame's.
      UnusableClip: no frame that may be first shows an object.
    """
    candidates = np.arange(len(video)) if unannotated else np.array(video.annotated, int)
    start_candidates = np.flatnonzero(np.isin(candidates, frames_with_objects(video)))
    masks: dict[int, np.ndarray | None] = {}

    def mask_of(time: int) -> np.ndarray | None:
        if time not in masks:
            masks[time] = video.mask(time)
        return masks[time]

    chosen = choose_frames(
        len(candidates),
        start_candidates,
        lambda number: transforms.holds_object(mask_of(int(candidates[number]))),
        length=length,
        max_gap=max_gap,
        rng=key.generator(),
    )
    times = [int(candidates[number]) for number in chosen]
    frames = tuple(video.frame(time) for time in times)
    ids = tuple(mask_of(time) for time in times)
    check_sizes(video.name, times, frames, ids)
    return transforms.make_view(frames, ids)


def load_photo(video: video_lib.Video, *, key: transforms.Key) -> transforms.View:
    """Decodes a random frame that shows an object: the photo of a pseudo-clip.

    Raises:
      VosError: a file cannot be read, or the mask's size differs from its frame's.
      UnusableClip: no annotated frame shows an object.
    """
    for time in key.generator().permutation(frames_with_objects(video)).tolist():
        ids = video.mask(time)
        if transforms.holds_object(ids):
            frames = (video.frame(time),)
            check_sizes(video.name, [time], frames, (ids,))
            return transforms.make_view(frames, (ids,))
    raise transforms.UnusableClip("no annotated frame shows an object")


def frames_with_objects(video: video_lib.Video) -> Int[np.ndarray, "A"]:
    """Returns the frames known to show an object, ascending; all annotated ones if that is not known."""
    return np.array(video.annotated if video.with_objects is None else video.with_objects, int)


def check_sizes(
    name: str,
    times: list[int],
    frames: tuple[UInt8[np.ndarray, "H W 3"], ...],
    ids: tuple[UInt8[np.ndarray, "H W"] | None, ...],
) -> None:
    """Raises VosError for frames of different sizes and for masks of another aspect ratio than their frame.

    Reduced decoding makes a frame smaller than its mask, so only the ratio is compared, within a pixel.
    """
    height, width = frames[0].shape[:2]
    for time, frame, mask in zip(times, frames, ids, strict=True):
        if frame.shape != frames[0].shape:
            raise errors.VosError(
                f"{name}: frame {time} is {frame.shape[1]}x{frame.shape[0]}, frame {times[0]} "
                f"{width}x{height} (width x height); all frames of a sequence have one size"
            )
        if mask is not None:
            factor = max(1.0, mask.shape[0] / height)
            off = (abs(mask.shape[0] / factor - height), abs(mask.shape[1] / factor - width))
            if max(off) > (0.0 if factor == 1.0 else 1.0):
                raise errors.VosError(
                    f"{name}: the mask of frame {time} is {mask.shape[1]}x{mask.shape[0]}, its frame "
                    f"{width}x{height} (width x height); masks must have the size of their frames"
                )


IGNORE = 255
"""Id of pixels of `instances` that the proposal network ignores."""


class ClipArrays(TypedDict):
    """One training clip: T frames, up to N objects, up to K instances. A batch has a leading axis B.

    Attributes:
      frames: RGB.
      ids: 0 background, 1..N objects. Void and unknown pixels are background; there is no 255.
      object_valid: False for padding.
      frame_valid: False for frames that repeat the last one of a short clip.
      truth_valid: False for a frame without annotation (its ids are 0).
      frame_size: Height and width without padding, which is at the bottom and right.
      dataset: Index of the λ of the matching cost.
      instances: For the proposal network: 1..K for every labelled instance of any frame, whether or not it is
        an object of the clip; IGNORE for instances beyond K.
      instance_valid: False for padding.
      exhaustive: False if unlabelled pixels may show objects.
      origins: For the correspondence loss: the point that each cell shows (`data.origins`), UNKNOWN in clips
        of real videos.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    ids: UInt8[np.ndarray, "T H W"]
    object_valid: Bool[np.ndarray, "N"]
    frame_valid: Bool[np.ndarray, "T"]
    truth_valid: Bool[np.ndarray, "T"]
    frame_size: Int[np.ndarray, "2"]
    dataset: Int[np.ndarray, ""]
    instances: UInt8[np.ndarray, "T H W"]
    instance_valid: Bool[np.ndarray, "K"]
    exhaustive: Bool[np.ndarray, ""]
    origins: Float[np.ndarray, "T h w 3"]


def number_instances(
    labelled: Sequence[UInt8[np.ndarray, "H W"] | None],
    chosen: Sequence[UInt8[np.ndarray, "H W"] | None],
    *,
    capacity: int,
) -> tuple[list[UInt8[np.ndarray, "H W"] | None], int]:
    """Numbers the labelled instances of a clip 1..K: first the clip's objects, then the largest.

    Args:
      labelled: ids of all instances in each frame, None without annotation.
      chosen: ids of the clip's objects.
      capacity: K; instances beyond it become IGNORE.

    Returns:
      The numbered frames, and the number of instances, at most K.
    """
    sizes, kept = np.zeros(256, int), np.zeros(256, int)
    for ids, own in zip(labelled, chosen, strict=True):
        if ids is not None and own is not None:
            sizes += np.bincount(ids.ravel(), minlength=256)
            kept += np.bincount(ids[own > 0], minlength=256)
    # lexsort sorts by the last key first.
    order = np.lexsort((-sizes, kept == 0))
    found = [int(i) for i in order if i and sizes[i]]
    table = np.zeros(256, np.uint8)
    table[found] = IGNORE
    table[found[:capacity]] = np.arange(1, len(found[:capacity]) + 1)
    frames = [None if ids is None else cv2.LUT(ids, table) for ids in labelled]
    return frames, min(len(found), capacity)


def to_arrays(
    clip: transforms.Clip,
    *,
    num_objects: int,
    length: int,
    max_objects: int,
    dataset: int,
    labelled: Sequence[UInt8[np.ndarray, "H W"] | None] | None = None,
    max_instances: int = 8,
    exhaustive: bool = True,
) -> ClipArrays:
    """Returns a clip as arrays of static shape; a clip shorter than T repeats its last frame.

    Args:
      clip: padded, with the ids of its objects.
      num_objects: number of these objects.
      length, max_objects, max_instances: T, N and K.
      dataset: index of the λ.
      labelled: ids of all labelled instances; None: those of the clip.
      exhaustive: whether every visible object is labelled.
    """
    real = len(clip.frames)
    missing = length - real
    blank = np.zeros(clip.frames[0].shape[:2], np.uint8)
    frame_valid = np.arange(length) < real
    instances, num_instances = number_instances(
        clip.ids if labelled is None else labelled, clip.ids, capacity=max_instances
    )
    origins = origins_lib.unknown(length, clip.frames[0].shape[:2])
    if clip.origins is not None:
        origins[:real] = clip.origins
    annotated = np.array([ids is not None for ids in clip.ids] + [False] * missing)
    return {
        "frames": np.stack(clip.frames + clip.frames[-1:] * missing),
        "ids": np.stack([blank if ids is None else ids for ids in clip.ids] + [blank] * missing),
        "object_valid": np.arange(max_objects) < num_objects,
        "frame_valid": frame_valid,
        "truth_valid": frame_valid & annotated,
        "frame_size": np.array(clip.size, np.int32),
        "dataset": np.array(dataset, np.int32),
        "instances": np.stack([blank if ids is None else ids for ids in instances] + [blank] * missing),
        "instance_valid": np.arange(max_instances) < num_instances,
        "exhaustive": np.array(exhaustive),
        "origins": origins,
    }
