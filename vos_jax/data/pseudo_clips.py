"""Pseudo-clips: one photo with masks becomes T frames that move, bend and hide one another (DESIGN §8).

The photo is the background and keeps its objects; objects of other photos are pasted over it and move on
their own, so that they occlude and are occluded. Every layer has a path: an affine part (turn, scale, shear,
shift) and a smooth warp, both growing with time. All maps are composed on a coarse lattice and pixels are
sampled once, at crop size.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from vos_jax.data import transforms
from vos_jax.typing import Float

STRIDE = 16
"""Pixels between two points of the lattice on which maps are computed; between them they are interpolated."""

MARGIN = 2
"""Lattice points beyond each side of the crop: interpolation needs neighbours there."""


# --- smooth warps: a basis over the lattice, linear in its control points' displacements --------------------


def thin_plate(
    points: Float[np.ndarray, "G 2"], controls: Float[np.ndarray, "K 2"]
) -> Float[np.ndarray, "G K"]:
    """Thin-plate spline: the smoothest surface through the control points' displacements (U = r² log r).

    Args:
      points: where it is evaluated.
      controls: control points in the same units.

    Returns:
      weights; `basis @ displacements [K, 2]` displaces the points.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = ((a[:, None] - b[None]) ** 2).sum(-1)
        return 0.5 * squared * np.log(np.maximum(squared, 1e-12))

    def affine(a: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(a), 1)), a], axis=1)

    size = len(controls)
    system = np.zeros((size + 3, size + 3))
    system[:size, :size] = kernel(controls, controls)
    system[:size, size:] = affine(controls)
    system[size:, :size] = affine(controls).T
    solution = np.linalg.inv(system)[:, :size]
    return np.concatenate([kernel(points, controls), affine(points)], axis=1) @ solution


def elastic(points: Float[np.ndarray, "G 2"], controls: Float[np.ndarray, "K 2"]) -> Float[np.ndarray, "G K"]:
    """Smooth elastic warp; a point follows the controls around it (Gaussian weights); see `thin_plate`."""
    squared = ((points[:, None] - controls[None]) ** 2).sum(-1)
    spacing = np.sqrt(np.prod(controls.max(0) - controls.min(0)) / len(controls))
    logits = -squared / (2 * (0.6 * spacing) ** 2)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


WARPS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "thin_plate": thin_plate,
    "elastic": elastic,
}


# --- motion ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Motion:
    """How far a layer may move until the last frame of a clip; each limit is one of a uniform draw.

    Args:
      turn: degrees; scale: relative change of size; shear: tangent; shift: share of the crop's side.
      warp: largest displacement of a control point, share of the crop's side.
      jitter: how uneven the path is in time, in steps between two frames.
      warps: names of `WARPS` to choose from, or callables of the same signature.
      controls: control points per side.
    """

    turn: float = 12.0
    scale: float = 0.15
    shear: float = 0.08
    shift: float = 0.1
    warp: float = 0.04
    jitter: float = 0.3
    warps: tuple[str | Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = ("thin_plate", "elastic")
    controls: int = 4

    def path(
        self, length: int, size: tuple[int, int], points: Float[np.ndarray, "G 2"], rng: np.random.Generator
    ) -> Float[np.ndarray, "T G 2"]:
        """Returns where each point of each frame comes from in frame 0, all in pixels (x, y) of the crop.

        Frame 0 stays as it is. Later frames follow one path, each with a warp partly of its own, so that
        neighbours in time are alike and none is a mere interpolation.
        """
        height, width = size
        progress = np.arange(length) / max(1, length - 1)
        progress[1:] += rng.uniform(-1, 1, length - 1) * self.jitter / max(1, length - 1)
        limits = np.array([np.deg2rad(self.turn), self.scale, self.shear, self.shift, self.shift])
        end = rng.uniform(-1, 1, 5) * limits
        own = rng.uniform(-0.15, 0.15, (length, 5)) * limits
        centre = rng.uniform(0.25, 0.75, 2) * (width, height)

        warp = self.warps[int(rng.integers(len(self.warps)))]
        rows = (np.arange(self.controls) + 0.5) / self.controls
        grid = np.stack(np.meshgrid(rows, rows), -1).reshape(-1, 2)
        grid += rng.uniform(-0.3, 0.3, grid.shape) / self.controls
        basis = (WARPS[warp] if isinstance(warp, str) else warp)(points / (width, height), grid)
        bend = rng.uniform(-1, 1, (1, len(grid), 2)) + 0.3 * rng.uniform(-1, 1, (length, len(grid), 2))
        amplitude = self.warp * min(height, width)

        origins = np.empty((length, *points.shape))
        for time in range(length):
            moved = points + basis @ bend[time] * (amplitude * progress[time])
            turn, scale, shear, *shift = end * progress[time] + own[time] * (time > 0)
            cos, sin = np.cos(turn), np.sin(turn)
            matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]]) / (1 + scale)
            origins[time] = (moved - centre - np.array(shift) * (width, height)) @ matrix.T + centre
        return origins


def lattice(size: tuple[int, int]) -> tuple[Float[np.ndarray, "G 2"], tuple[int, int]]:
    """Returns the lattice points (x, y) of a crop, margins included, row by row, and the lattice's shape."""
    rows, columns = (-(-side // STRIDE) + 2 * MARGIN for side in size)
    ys, xs = ((np.arange(n) - MARGIN + 0.5) * STRIDE for n in (rows, columns))
    return np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2), (rows, columns)


def dense(
    coarse: Float[np.ndarray, "G 2"],
    shape: tuple[int, int],
    size: tuple[int, int],
    box: tuple[slice, slice] | None = None,
) -> Float[np.ndarray, "h w 2"]:
    """Interpolates a lattice of coordinates at the pixel centres of a crop; exact for affine maps.

    Args:
      coarse: coordinates at the lattice's points.
      shape: rows and columns of the lattice.
      size: height and width of the crop.
      box: the part of the crop that is wanted, beginning at multiples of STRIDE; None for all.
    """
    box = box or (slice(0, size[0]), slice(0, size[1]))
    first = [b.start // STRIDE for b in box]
    last = [-(-b.stop // STRIDE) + 2 * MARGIN for b in box]
    field = coarse.reshape(*shape, 2)[first[0] : last[0], first[1] : last[1]].astype(np.float32)
    full = cv2.resize(
        field, (field.shape[1] * STRIDE, field.shape[0] * STRIDE), interpolation=cv2.INTER_LINEAR
    )
    start = MARGIN * STRIDE
    return full[start : start + box[0].stop - box[0].start, start : start + box[1].stop - box[1].start]


# --- sprites -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sprite:
    """One object cut out of a photo: uint8 [h, w, 4], RGB and opacity."""

    pixels: np.ndarray


def cut_sprite(view: transforms.View, rng: np.random.Generator, *, min_pixels: int) -> Sprite | None:
    """Cuts a random object of at least `min_pixels` pixels out of a photo; None where there is none."""
    ids, frame = view.ids[0], view.frames[0]
    assert ids is not None  # of a photo; only frames of videos may lack theirs
    areas = np.bincount(ids.ravel(), minlength=256)
    areas[0] = 0
    found = np.flatnonzero(areas >= min_pixels)
    if len(found) == 0:
        return None
    mask = (ids == rng.choice(found)).view(np.uint8) * 255
    if mask.shape != frame.shape[:2]:
        mask = cv2.resize(mask, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    x, y, width, height = cv2.boundingRect(mask)
    # A transparent rim of two pixels lets the edge fade out.
    box = np.s_[y : y + height, x : x + width]
    cut = np.dstack([frame[box], mask[box]])
    return Sprite(cv2.copyMakeBorder(cut, 2, 2, 2, 2, cv2.BORDER_REPLICATE) * _rim(height, width))


def _rim(height: int, width: int) -> np.ndarray:
    """Returns 1 everywhere but in the opacity of the two outermost pixels: uint8 [h + 4, w + 4, 4]."""
    rim = np.ones((height + 4, width + 4, 4), np.uint8)
    rim[:, :, 3] = np.pad(np.ones((height, width), np.uint8), 2)
    return rim


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoClip:
    """Makes a clip of any length from one photo and objects of other photos.

    Args:
      camera: motion of the photo, with all that is in it.
      object: motion of each pasted object, on top of nothing: it does not follow the camera.
      max_objects: a clip is meant to show 1..max_objects objects, each number equally likely; photos that
        already show more keep them (`SelectObjects` decides).
      size: smallest and largest pasted object: root of its box's area, as a share of the crop's side.
      mirror: probability that a pasted object is mirrored.
      min_pixels: smaller objects are not pasted.
    """

    camera: Motion = Motion()
    object: Motion = Motion(turn=25.0, scale=0.25, shear=0.15, shift=0.3, warp=0.06)
    max_objects: int = 4
    size: tuple[float, float] = (0.15, 0.6)
    mirror: float = 0.5
    min_pixels: int = 200

    def wanted(self, view: transforms.View, key: transforms.Key) -> int:
        """Returns how many objects are to be pasted over a photo."""
        number = int(key.fold("wanted").generator().integers(1, self.max_objects + 1))
        ids = view.ids[0]
        assert ids is not None
        return max(0, number - len(np.flatnonzero(np.bincount(ids.ravel())[1:])))

    def __call__(
        self,
        view: transforms.View,
        others: Sequence[transforms.View],
        *,
        length: int,
        key: transforms.Key,
    ) -> transforms.Clip:
        """Returns the clip seen through a placed view.

        Args:
          view: one photo under the geometry of its crop (`Augmentation.place`).
          others: photos to cut one object from each.
          length: number of frames.
          key: drives all motion.
        """
        points, shape = lattice(view.size)
        origins = self.camera.path(length, view.size, points, key.fold("camera").generator())
        assert view.ids[0] is not None
        photo, ids = view.frames[0], _compact(view.ids[0])
        frames, truths = [], []
        for time in range(length):
            maps = dense(origins[time], shape, view.size)
            # Mirroring at the borders shows no black; photo and mask are mirrored alike.
            frames.append(_sample(photo, maps, view.to_unit, cv2.INTER_LINEAR, cv2.BORDER_REFLECT))
            truths.append(_sample(ids, maps, view.to_unit, cv2.INTER_NEAREST, cv2.BORDER_REFLECT))
        for number, other in enumerate(others):
            rng = key.fold("paste").fold(number).generator()
            sprite = cut_sprite(other, rng, min_pixels=self.min_pixels)
            if sprite is not None:
                self._paste(frames, truths, sprite, 255 - number, rng)
        return transforms.Clip(tuple(frames), tuple(truths), view.size)

    def _paste(
        self,
        frames: list[np.ndarray],
        truths: list[np.ndarray],
        sprite: Sprite,
        object_id: int,
        rng: np.random.Generator,
    ) -> None:
        """Draws one object over all frames, in place; its motion is independent of everything below it."""
        size = frames[0].shape[:2]
        height, width = sprite.pixels.shape[:2]
        factor = rng.uniform(*self.size) * np.sqrt(size[0] * size[1] / (height * width))
        pixels = sprite.pixels
        if factor < 0.75:
            # Bilinear sampling of a larger picture would alias.
            small = (max(4, round(width * factor)), max(4, round(height * factor)))
            pixels = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
        mirrored = -1.0 if rng.random() < self.mirror else 1.0
        place = rng.uniform(0.15, 0.85, 2) * size[::-1]
        # From crop pixels (around `place`) to the sprite's unit square (around its middle).
        scale = np.array([mirrored / (factor * width), 1 / (factor * height)])
        to_unit = np.concatenate([np.diag(scale), (0.5 - scale * place)[:, None]], axis=1)
        points, shape = lattice(size)
        origins = self.object.path(len(frames), size, points, rng)
        for time, (frame, truth) in enumerate(zip(frames, truths, strict=True)):
            unit = origins[time] @ to_unit[:, :2].T + to_unit[:, 2]
            box = _touched(unit.reshape(*shape, 2), size)
            if box is None:
                continue
            maps = dense(origins[time], shape, size, box)
            layer = _sample(pixels, maps, to_unit, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
            opacity = layer[:, :, 3].astype(np.float32) * (1 / 255)
            frame[box] = cv2.blendLinear(
                np.ascontiguousarray(layer[:, :, :3]), np.ascontiguousarray(frame[box]), opacity, 1 - opacity
            )
            truth[box][layer[:, :, 3] > 127] = object_id


def of_picture(
    picture: transforms.View,
    others: Sequence[transforms.View],
    pseudo: PseudoClip,
    augmentation: transforms.Augmentation,
    *,
    length: int,
    key: transforms.Key,
) -> tuple[transforms.Clip, int]:
    """Returns an augmented pseudo-clip of a picture and its number of objects.

    Raises:
      UnusableClip: it shows no object.
    """
    # One frame has no order to flip: time is flipped once there are frames.
    clip = pseudo(augmentation.place(picture, key), others, length=length, key=key.fold("pseudo"))
    return augmentation.finish(augmentation.temporal_flip(clip, key.fold("temporal_flip")), key)


def _compact(ids: np.ndarray) -> np.ndarray:
    """Renumbers ids 1, 2, ..: the highest numbers are left for pasted objects."""
    present = np.flatnonzero(np.bincount(ids.ravel(), minlength=256)[1:]) + 1
    table = np.zeros(256, np.uint8)
    table[present] = np.arange(1, len(present) + 1)
    return cv2.LUT(ids, table)


def _sample(
    array: np.ndarray,
    maps: Float[np.ndarray, "h w 2"],
    to_unit: Float[np.ndarray, "2 3"],
    interpolation: int,
    border: int,
) -> np.ndarray:
    """Samples an array where `maps` says, given as (x, y) in pixels of the view that `to_unit` belongs to."""
    height, width = array.shape[:2]
    matrix = to_unit * np.array([[width], [height]])
    matrix[:, 2] -= 0.5
    none: Any = None  # OpenCV takes it where `maps` holds x and y; its stubs do not
    return cv2.remap(array, cv2.transform(maps, matrix), none, interpolation, borderMode=border)


def _touched(unit: Float[np.ndarray, "g G 2"], size: tuple[int, int]) -> tuple[slice, slice] | None:
    """Returns the part of the crop that a sprite's unit square can reach, from its coarse coordinates."""
    inside = np.all((unit > -0.1) & (unit < 1.1), axis=-1).astype(np.uint8)
    # A sprite smaller than a lattice cell may lie between its points.
    inside |= _straddles(unit)
    if not inside.any():
        return None
    ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = []
    for hits, side in ((ys, size[0]), (xs, size[1])):
        low = int(np.clip((hits[0] - MARGIN - 1) * STRIDE, 0, side))
        high = int(np.clip((hits[-1] - MARGIN + 2) * STRIDE, 0, side))
        if low >= high:
            return None
        box.append(slice(low, high))
    return box[0], box[1]


def _straddles(unit: np.ndarray) -> np.ndarray:
    """Marks lattice points whose step to the next one crosses the unit square in both coordinates."""
    marks = np.zeros(unit.shape[:2], np.uint8)
    corners = np.stack([unit[:-1, :-1], unit[1:, :-1], unit[:-1, 1:], unit[1:, 1:]])
    crosses = np.all((corners.min(0) < 1) & (corners.max(0) > 0), axis=-1)
    marks[:-1, :-1] |= crosses
    marks[1:, 1:] |= crosses
    return marks
