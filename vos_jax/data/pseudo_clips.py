"""Pseudo-clips: T frames made from one photo with masks by motion, warps and pasted objects.

The photo is the background and keeps its objects; objects of other photos are pasted over it and move
independently, with occlusions. Every layer has a path: an affine part (turn, scale, shear, shift) and a
smooth warp, both growing with time. All maps are composed on a coarse lattice, and pixels are sampled once,
at crop size.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from vos_jax import checks
from vos_jax.data import augmentation as augmentation_lib
from vos_jax.data import motion, transforms
from vos_jax.data import origins as origins_lib
from vos_jax.errors import VosError
from vos_jax.typing import Float, UInt8

LAST_ID = 254
"""Highest id of a pasted object; 255 is void."""

# --- sprites -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sprite:
    """One object cut out of a photo: uint8 [h, w, 4], RGB and opacity."""

    pixels: np.ndarray


def cut_sprite(view: transforms.View, rng: np.random.Generator, *, min_pixels: int) -> Sprite | None:
    """Cuts a random object of at least `min_pixels` pixels out of a photo; None if there is none."""
    ids, frame = view.ids[0], view.frames[0]
    assert ids is not None  # a photo always has a mask
    areas = np.bincount(ids.ravel(), minlength=256)
    areas[0] = 0
    found = np.flatnonzero(areas >= min_pixels)
    if len(found) == 0:
        return None
    mask = (ids == rng.choice(found)).view(np.uint8) * 255
    if mask.shape != frame.shape[:2]:
        mask = cv2.resize(mask, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    x, y, width, height = cv2.boundingRect(mask)
    # A transparent rim of two pixels gives the edge a soft transition.
    box = np.s_[y : y + height, x : x + width]
    cut = np.dstack([frame[box], mask[box]])
    return Sprite(cv2.copyMakeBorder(cut, 2, 2, 2, 2, cv2.BORDER_REPLICATE) * _rim(height, width))


def _rim(height: int, width: int) -> np.ndarray:
    """Returns ones, with 0 in the opacity of the two outermost pixels: uint8 [h + 4, w + 4, 4]."""
    rim = np.ones((height + 4, width + 4, 4), np.uint8)
    rim[:, :, 3] = np.pad(np.ones((height, width), np.uint8), 2)
    return rim


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoClip:
    """Makes a clip of any length from one photo and objects of other photos.

    Attributes:
      camera: Motion of the photo with its objects.
      object: Motion of each pasted object, independent of the camera.
      motion: Factor on the rotation, scaling and shift of both.
      max_objects: Maximum of the uniformly drawn number of objects of a clip; photos with more objects keep
        them until `SelectObjects`.
      size: Smallest and largest pasted object: root of its box's area, as a share of the crop's side.
      mirror: Probability that a pasted object is mirrored.
      min_pixels: Smaller objects are not pasted.
    """

    camera: motion.Motion = motion.Motion()
    object: motion.Motion = motion.Motion(turn=25.0, scale=0.25, shear=0.15, shift=0.3, warp=0.06)
    motion: float = 1.0
    max_objects: int = dataclasses.field(default=4, metadata={"follows": "train.data.max_objects"})
    size: tuple[float, float] = (0.15, 0.6)
    mirror: float = 0.5
    min_pixels: int = 200

    def __post_init__(self):
        checks.above(self, 0, "motion")
        checks.probability(self, "mirror")
        if not 0 < self.size[0] <= self.size[1]:
            raise VosError(f"size is {self.size}; write a minimum above 0 and a maximum")

    def num_pasted(self, view: transforms.View, key: transforms.Key) -> int:
        """Returns the number of objects to paste over a photo."""
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
        """Returns the clip of a placed view.

        Args:
          view: one photo with the geometry of its crop (`Augmentation.place`).
          others: photos, each of which gives one object.
          length: number of frames.
          key: source of all draws.
        """
        points, shape = motion.lattice(view.size)
        camera = self.camera.times(self.motion)
        path = camera.path(length, view.size, points, key.fold("camera").generator())
        assert view.ids[0] is not None
        photo, (ids,) = view.frames[0], compact([view.ids[0]])
        frames, truths = [], []
        for time in range(length):
            maps = motion.dense(path[time], shape, view.size)
            # Mirrored at the borders, to avoid black areas; the mask is mirrored in the same way.
            frames.append(_sample(photo, maps, view.to_unit, cv2.INTER_LINEAR, cv2.BORDER_REFLECT))
            truths.append(_sample(ids, maps, view.to_unit, cv2.INTER_NEAREST, cv2.BORDER_REFLECT))
        origins = _photo_origins(path, shape, view)
        for number, other in enumerate(others):
            rng = key.fold("paste").fold(number).generator()
            sprite = cut_sprite(other, rng, min_pixels=self.min_pixels)
            if sprite is not None:
                path = self._paste(frames, truths, sprite, 255 - number, rng)
                shown = np.stack([origins_lib.at_centres(truth, 0) == 255 - number for truth in truths])
                of_object = origins_lib.of_layer(path, shape, 1 + number)
                origins = np.where(shown[..., None], of_object, origins)
        return transforms.Clip(tuple(frames), tuple(truths), view.size, origins)

    def _paste(
        self,
        frames: list[np.ndarray],
        truths: list[np.ndarray],
        sprite: Sprite,
        object_id: int,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "T G 2"]:
        """Draws one object over all frames, in place, and returns its path.

        Its motion is independent of everything below it.
        """
        size = frames[0].shape[:2]
        height, width = sprite.pixels.shape[:2]
        factor = rng.uniform(*self.size) * np.sqrt(size[0] * size[1] / (height * width))
        pixels = sprite.pixels
        if factor < 0.75:
            # Bilinear sampling of a larger sprite would alias.
            small = (max(4, round(width * factor)), max(4, round(height * factor)))
            pixels = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
        mirrored = -1.0 if rng.random() < self.mirror else 1.0
        place = rng.uniform(0.15, 0.85, 2) * size[::-1]
        # Maps crop pixels to the sprite's unit square, and `place` to its centre.
        scale = np.array([mirrored / (factor * width), 1 / (factor * height)])
        to_unit = np.concatenate([np.diag(scale), (0.5 - scale * place)[:, None]], axis=1)
        points, shape = motion.lattice(size)
        path = self.object.times(self.motion).path(len(frames), size, points, rng)
        for time, (frame, truth) in enumerate(zip(frames, truths, strict=True)):
            lay(frame, truth, pixels, path[time], shape, to_unit, object_id)
        return path


def lay(
    frame: UInt8[np.ndarray, "H W 3"],
    truth: UInt8[np.ndarray, "H W"],
    pixels: UInt8[np.ndarray, "h w 4"],
    coarse: Float[np.ndarray, "G 2"],
    shape: tuple[int, int],
    to_unit: Float[np.ndarray, "2 3"],
    object_id: int,
    *,
    before: UInt8[np.ndarray, "H W"] | None = None,
) -> None:
    """Draws one sprite over a frame and its ids, in place.

    Args:
      frame: RGB.
      truth: object ids; pixels where the sprite is more than half opaque get its id.
      pixels: RGB and opacity.
      coarse: origins of the points of the lattice of shape `shape`.
      to_unit: maps these origins to the sprite's unit square.
      object_id: of the sprite.
      before: opacity of the layers in front of the sprite; None: no such layer.
    """
    size = (frame.shape[0], frame.shape[1])
    unit = coarse @ to_unit[:, :2].T + to_unit[:, 2]
    box = _touched(unit.reshape(*shape, 2), size)
    if box is None:
        return
    maps = motion.dense(coarse, shape, size, box)
    layer = _sample(pixels, maps, to_unit, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
    alpha = layer[:, :, 3]
    if before is not None:
        alpha = cv2.multiply(alpha, 255 - before[box], scale=1 / 255)
    opacity = alpha.astype(np.float32) * (1 / 255)
    frame[box] = cv2.blendLinear(
        np.ascontiguousarray(layer[:, :, :3]), np.ascontiguousarray(frame[box]), opacity, 1 - opacity
    )
    truth[box][alpha > 127] = object_id


def _photo_origins(
    path: Float[np.ndarray, "T G 2"], shape: tuple[int, int], view: transforms.View
) -> Float[np.ndarray, "T h w 3"]:
    """Returns the origins of a photo's cells, UNKNOWN outside the crop or the photo.

    Outside its borders the photo is mirrored, so the origin of a cell there would be wrong.
    """
    origins = origins_lib.of_layer(path, shape, 0)
    unit = origins[..., 1:] @ view.to_unit[:, :2].T + view.to_unit[:, 2]
    known = np.all((unit >= 0) & (unit <= 1), axis=-1)
    known &= origins_lib.at_centres(np.ones(view.size, bool), 0)
    return np.where(known[..., None], origins, np.float32(origins_lib.UNKNOWN))


def of_photo(
    photo: transforms.View,
    others: Sequence[transforms.View],
    pseudo: PseudoClip,
    augmentation: augmentation_lib.Augmentation,
    *,
    length: int,
    key: transforms.Key,
) -> transforms.Clip:
    """Returns a pseudo-clip of a photo, augmented except for `Augmentation.finish`.

    Raises:
      UnusableClip: the photo shows no object.
    """
    # `place` cannot flip the time of a single frame, so it is flipped here.
    clip = pseudo(augmentation.place(photo, key), others, length=length, key=key.fold("pseudo"))
    return augmentation.temporal_flip(clip, key.fold("temporal_flip"))


def compact(ids: Sequence[UInt8[np.ndarray, "H W"]]) -> list[UInt8[np.ndarray, "H W"]]:
    """Renumbers the ids of all frames to 1, 2, .., so that the highest ids are free for pasted objects."""
    counts = sum(np.bincount(frame.ravel(), minlength=256) for frame in ids)
    present = np.flatnonzero(np.asarray(counts)[1:]) + 1
    table = np.zeros(256, np.uint8)
    table[present] = np.arange(1, len(present) + 1)
    return [cv2.LUT(frame, table) for frame in ids]


def _sample(
    array: np.ndarray,
    maps: Float[np.ndarray, "h w 2"],
    to_unit: Float[np.ndarray, "2 3"],
    interpolation: int,
    border: int,
) -> np.ndarray:
    """Samples an array at `maps`, (x, y) in pixels of the view of `to_unit`."""
    height, width = array.shape[:2]
    matrix = to_unit * np.array([[width], [height]])
    matrix[:, 2] -= 0.5
    none: Any = None  # OpenCV accepts None because `maps` has x and y; its stubs do not
    return cv2.remap(array, cv2.transform(maps, matrix), none, interpolation, borderMode=border)


def _touched(unit: Float[np.ndarray, "g G 2"], size: tuple[int, int]) -> tuple[slice, slice] | None:
    """Returns the part of the crop that a sprite's unit square may cover, from its coarse coordinates."""
    inside = np.all((unit > -0.1) & (unit < 1.1), axis=-1).astype(np.uint8)
    # A sprite smaller than a lattice cell may be between its points.
    inside |= _straddles(unit)
    if not inside.any():
        return None
    ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = []
    for hits, side in ((ys, size[0]), (xs, size[1])):
        low = int(np.clip((hits[0] - motion.MARGIN - 1) * motion.STRIDE, 0, side))
        high = int(np.clip((hits[-1] - motion.MARGIN + 2) * motion.STRIDE, 0, side))
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
