"""Objects cut out of training videos, to be pasted over other clips (docs/method.md, "Copy-paste").

An object is cut out of several frames of a video, with its own motion and deformation, or out of one photo.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from vos_jax.data import appearance, clips, transforms
from vos_jax.data import video as video_lib
from vos_jax.typing import Bool, Float, UInt8

LARGEST = 0.4
"""Largest share of its frame that a cut-out object may cover: larger ones are mostly close-ups."""

RIM = 4
"""Transparent pixels around a cut-out."""

RECOLOUR = np.array([0.25, 0.25, 0.3, 45.0])
"""Largest change of a look-alike's brightness, contrast and saturation, and of its hue in degrees."""

TRIALS = 4
"""Number of videos tried for one object."""


@dataclasses.dataclass(frozen=True)
class Cutout:
    """One object, cut out of as many frames as a clip has.

    Args:
      sprites: RGB and opacity, one per frame of the clip; a photo's sprites are all equal.
      anchors: (x, y) of the point that follows the object's path, in each sprite's pixels.
      object_id: of the object in its own video.
    """

    sprites: tuple[UInt8[np.ndarray, "h w 4"], ...]
    anchors: Float[np.ndarray, "T 2"]
    object_id: int


def is_whole(mask: Bool[np.ndarray, "H W"], min_pixels: int) -> bool:
    """Returns whether an object can be cut out: neither tiny nor huge, and not at the frame's border."""
    pixels = np.count_nonzero(mask)
    if not min_pixels <= pixels <= LARGEST * mask.size:
        return False
    return not (mask[:2].any() or mask[-2:].any() or mask[:, :2].any() or mask[:, -2:].any())


def cut_out(
    video: video_lib.Video,
    *,
    length: int,
    max_gap: int,
    min_pixels: int,
    key: transforms.Key,
    object_id: int | None = None,
) -> Cutout | None:
    """Cuts one object out of `length` frames of a video, from a random frame on.

    At a frame in which the object cannot be cut out (`is_whole`), the direction of time is reversed.

    Args:
      video: with at least one annotated frame.
      length: frames of the clip.
      max_gap: maximum number of frames skipped between two.
      min_pixels: smaller objects are not cut out.
      key: source of all draws.
      object_id: the object; None draws one.

    Returns:
      The object, or None if it cannot be cut out of the first drawn frame.

    Raises:
      VosError: a file cannot be read.
    """
    rng = key.generator()
    times = clips.frames_with_objects(video)
    at = int(rng.integers(len(times)))
    masks: dict[int, np.ndarray] = {}

    def ids_of(number: int) -> np.ndarray:
        if number not in masks:
            ids = video.mask(int(times[number]))
            assert ids is not None  # it is annotated
            masks[number] = ids
        return masks[number]

    known = np.flatnonzero(np.bincount(ids_of(at).ravel(), minlength=256)[1:]) + 1
    whole = [int(i) for i in known if is_whole(ids_of(at) == i, min_pixels)]
    if not whole or (object_id is not None and object_id not in whole):
        return None
    chosen = object_id if object_id is not None else whole[int(rng.integers(len(whole)))]

    def usable(number: int) -> bool:
        return 0 <= number < len(times) and is_whole(ids_of(number) == chosen, min_pixels)

    direction = 1 if rng.random() < 0.5 else -1
    played = [at]
    for step in rng.integers(1, max_gap + 2, length - 1).tolist():
        if not usable(at + direction * step) and usable(at - direction * step):
            direction = -direction
        at += direction * step if usable(at + direction * step) else 0
        played.append(at)
    cut = {number: _cut(video.frame(int(times[number])), ids_of(number) == chosen) for number in set(played)}
    corners = np.array([cut[number][1] for number in played])
    return Cutout(
        sprites=tuple(cut[number][0] for number in played),
        anchors=_steady(np.array(played), np.array([cut[number][2] for number in played])) - corners,
        object_id=chosen,
    )


def draw(
    videos: Sequence[Sequence[video_lib.Video]],
    weights: Sequence[float],
    base: tuple[int, int],
    count: int,
    *,
    length: int,
    max_gap: int,
    min_pixels: int,
    lookalike: float,
    key: transforms.Key,
) -> list[Cutout]:
    """Cuts out objects of other videos, to paste over a clip.

    Args:
      videos: of each source to draw from.
      weights: shares of the sources.
      base: the clip's own source and video.
      count: number of objects; fewer are returned if the drawn videos show none that can be cut out.
      length, max_gap, min_pixels: see `cut_out`.
      lookalike: probability that the last one is a look-alike: an object of the clip's own video, or one
        of the others again, from other frames and in half of the cases in other colours.
      key: source of all draws.

    Raises:
      VosError: a file cannot be read.
    """
    shares = np.array(weights) / np.sum(weights)
    found: list[tuple[tuple[int, int], Cutout]] = []

    def cut(origin: tuple[int, int], key: transforms.Key, object_id: int | None = None) -> Cutout | None:
        return cut_out(
            videos[origin[0]][origin[1]],
            length=length,
            max_gap=max_gap,
            min_pixels=min_pixels,
            key=key,
            object_id=object_id,
        )

    rng = key.fold("lookalike").generator()
    repeats = rng.random() < lookalike
    for number in range(count - repeats):
        for trial in range(TRIALS):
            drawn = key.fold("other").fold(number).fold(trial)
            source = int(drawn.generator().choice(len(shares), p=shares))
            index = int(drawn.fold("index").generator().integers(len(videos[source])))
            if (source, index) == base:
                continue
            cutout = cut((source, index), drawn.fold("frames"))
            if cutout is not None:
                found.append(((source, index), cutout))
                break
    cutouts = [cutout for _, cutout in found]
    if repeats:
        origin, object_id = base, None
        if found and rng.random() < 0.5:
            origin, first = found[int(rng.integers(len(found)))]
            object_id = first.object_id
        for trial in range(TRIALS):
            cutout = cut(origin, key.fold("again").fold(trial), object_id)
            if cutout is not None:
                cutouts.append(recolour(cutout, rng) if rng.random() < 0.5 else cutout)
                break
    return cutouts


def recolour(cutout: Cutout, rng: np.random.Generator) -> Cutout:
    """Returns a cut-out in other colours, the same change in all frames."""
    matrix = appearance.colour_matrix(*(rng.uniform(-1, 1, 4) * RECOLOUR))
    recoloured = {id(s): np.dstack([cv2.transform(s[:, :, :3], matrix), s[:, :, 3]]) for s in cutout.sprites}
    return dataclasses.replace(cutout, sprites=tuple(recoloured[id(s)] for s in cutout.sprites))


def _cut(frame: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
    """Returns a sprite of one frame, the sprite's corner (x, y) in the frame, and the object's centroid."""
    opaque = mask.view(np.uint8) * 255
    if opaque.shape != frame.shape[:2]:
        opaque = cv2.resize(opaque, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    x, y, width, height = cv2.boundingRect(opaque)
    moments = cv2.moments(opaque, binaryImage=True)
    box = np.s_[y : y + height, x : x + width]
    border = (RIM, RIM, RIM, RIM)
    colours = cv2.copyMakeBorder(frame[box], *border, cv2.BORDER_REPLICATE)
    opaque = cv2.copyMakeBorder(opaque[box], *border, cv2.BORDER_CONSTANT, value=0)
    # Extend the object's colours outwards: its video's background would be a seam along soft edges.
    weight = opaque.astype(np.float32) * (1 / 255)
    near = (
        cv2.blur(colours * weight[..., None], (7, 7)) / np.maximum(cv2.blur(weight, (7, 7)), 1e-3)[..., None]
    )
    colours = np.where(opaque[..., None] > 0, colours, np.rint(near).astype(np.uint8))
    soft = cv2.GaussianBlur(opaque, (3, 3), 0)
    centroid = np.array([moments["m10"], moments["m01"]]) / max(moments["m00"], 1) + 0.5
    return np.dstack([colours, soft]), (x - RIM, y - RIM), centroid


def _steady(times: np.ndarray, centroids: Float[np.ndarray, "T 2"]) -> Float[np.ndarray, "T 2"]:
    """Fits a straight line to the centroids and returns its points; sprites keep the deviation from it."""
    degree = min(1, len(set(times.tolist())) - 1)
    design = np.stack([np.ones(len(times)), times - times.mean()], 1)[:, : degree + 1]
    return design @ np.linalg.lstsq(design, centroids, rcond=None)[0]
