"""Copy-paste: objects of other videos move over a clip and occlude each other (docs/method.md, "Copy-paste").

A cut-out is pasted on a smooth path, in front of or behind the clip's own objects. The ground truth follows
from the order of the layers. After Simple Copy-Paste (Ghiasi et al. 2021), for video.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from vos_jax import checks, errors
from vos_jax.data import cutouts as cutouts_lib
from vos_jax.data import motion, pseudo_clips, transforms
from vos_jax.data import origins as origins_lib
from vos_jax.typing import Float, UInt8

MAGNIFY = 1.5
"""Largest magnification of an object; more would look blurred."""

TRIES = 12
"""Number of random positions tried for an object before it is left out."""

FULL_PATH = 30
"""Frames in which a pasted object may cross the whole crop; in a shorter clip it moves less far."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paste:
    """Pastes cut-out objects over a clip.

    Attributes:
      prob: Probability that objects of other videos and photos are pasted over a clip (in pseudo-clips,
        instead of those of `pseudo`); sources are drawn by weight.
      objects: Minimum and maximum number of objects of such a clip, its own included; at least one is pasted.
      lookalike: Probability that one of them is an object of the clip a second time, often mirrored or
        recoloured.
      behind: Probability that an object is behind the clip's own objects.
      leave: Probability that an object leaves the frame; half of these come back.
      size: Smallest and largest object: root of its box's area, as a share of the crop's side.
      mirror: Probability that an object is mirrored.
      min_pixels: Minimum number of pixels of an object when it is cut out, and in frame 0.
      object: Rotation, scaling and warp of an object, in addition to its path.

    Raises:
      VosError: a value out of range.
    """

    prob: float = 0.0
    objects: tuple[int, int] = (3, 5)
    lookalike: float = 0.4
    behind: float = 0.4
    leave: float = 0.2
    size: tuple[float, float] = (0.15, 0.5)
    mirror: float = 0.5
    min_pixels: int = 200
    object: motion.Motion = motion.Motion(turn=20.0, scale=0.25, shear=0.08, warp=0.03, jitter=0, sway=0)

    def __post_init__(self):
        checks.probability(self, "prob", "lookalike", "behind", "leave", "mirror")
        if not 1 <= self.objects[0] <= self.objects[1]:
            raise errors.VosError(f"objects is {self.objects}; write a minimum of at least 1 and a maximum")
        if not 0 < self.size[0] <= self.size[1]:
            raise errors.VosError(f"size is {self.size}; write a minimum above 0 and a maximum")

    def num_pasted(self, clip: transforms.Clip, key: transforms.Key) -> int:
        """Returns the number of objects to paste over a clip."""
        assert clip.ids[0] is not None
        shown = len(np.flatnonzero(np.bincount(clip.ids[0].ravel(), minlength=2)[1:]))
        total = int(key.fold("wanted").generator().integers(self.objects[0], self.objects[1] + 1))
        return max(1, total - shown)

    def __call__(
        self,
        clip: transforms.Clip,
        cutouts: Sequence[cutouts_lib.Cutout],
        *,
        max_gap: int,
        key: transforms.Key,
    ) -> transforms.Clip:
        """Returns the clip with the cut-outs pasted over it; their ids follow the clip's own.

        Frame 0 shows at least half of each pasted object, and of each other one at least half of what it
        showed before. A cut-out without such a position is left out. Cells covered by cut-outs have unknown
        origins.

        Args:
          clip: rendered, every frame annotated.
          cutouts: with as many frames as the clip.
          max_gap: maximum number of frames that the clip skips between two; scales the speed of the objects.
          key: source of all draws.
        """
        frames = [frame.copy() for frame in clip.frames]
        ids = pseudo_clips.compact([mask for mask in clip.ids if mask is not None])
        own = [cv2.GaussianBlur(np.where(mask > 0, 255, 0).astype(np.uint8), (3, 3), 0) for mask in ids]
        target = _middle(own[len(own) // 2])
        first_id = 1 + max(int(mask.max()) for mask in ids)
        areas = np.bincount(ids[0].ravel(), minlength=256).astype(float)
        behind = [key.fold("behind").fold(n).generator().random() < self.behind for n in range(len(cutouts))]
        # Objects behind the clip's own come first, because later ones cover earlier ones.
        for number in sorted(range(len(cutouts)), key=lambda n: not behind[n]):
            object_id = first_id + number
            if object_id > pseudo_clips.LAST_ID:
                continue
            rng = key.fold("object").fold(number).generator()
            before = own if behind[number] else [None] * len(ids)
            placed = self._place(cutouts[number], ids[0], before[0], areas, object_id, rng)
            if placed is None:
                continue
            size = ids[0].shape
            reach = np.clip((len(ids) - 1) * rng.uniform(1, max_gap + 1) / FULL_PATH, 0.15, 1.0)
            places = self._path(placed, len(ids), size, float(reach), target, rng)
            points, shape = motion.lattice(size)
            path = self.object.path(len(ids), size, points, rng, places=places)
            for time, sprite in enumerate(placed.scaled()):
                to_unit = placed.to_unit(time)
                pseudo_clips.lay(
                    frames[time],
                    ids[time],
                    sprite,
                    path[time],
                    shape,
                    to_unit,
                    object_id,
                    before=before[time],
                )
        origins = clip.origins
        if origins is not None:
            laid = np.stack([origins_lib.at_centres(mask, 0) >= first_id for mask in ids])
            origins = np.where(laid[..., None], np.float32(origins_lib.UNKNOWN), origins)
        return transforms.Clip(tuple(frames), tuple(ids), clip.size, origins)

    def _place(
        self,
        cutout: cutouts_lib.Cutout,
        ids: UInt8[np.ndarray, "H W"],
        before: UInt8[np.ndarray, "H W"] | None,
        areas: Float[np.ndarray, "256"],
        object_id: int,
        rng: np.random.Generator,
    ) -> "_Placed | None":
        """Draws a position in frame 0 and stores the object's area; None if no position shows enough."""
        sprite = cutout.sprites[0]
        extent = np.sqrt((sprite.shape[0] - 2 * cutouts_lib.RIM) * (sprite.shape[1] - 2 * cutouts_lib.RIM))
        wanted = rng.uniform(*self.size) * np.sqrt(ids.size) / extent
        factor = min(MAGNIFY, wanted)
        mirrored = rng.random() < self.mirror
        area = np.count_nonzero(sprite[:, :, 3] > 127) * factor**2
        for _ in range(TRIES):
            place = rng.uniform(0.1, 0.9, 2) * ids.shape[::-1]
            placed = _Placed(cutout, place, factor, mirrored)
            opacity = cv2.warpAffine(
                sprite[:, :, 3],
                transforms.to_pixels(placed.to_unit(0), sprite.shape[:2]),
                ids.shape[::-1],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            )
            if before is not None:
                opacity = cv2.multiply(opacity, 255 - before, scale=1 / 255)
            seen = np.bincount(np.where(opacity > 127, object_id, ids).ravel(), minlength=256)
            enough = seen >= 0.5 * areas
            # The background may be covered completely.
            enough[[0, object_id]] = True, seen[object_id] >= max(self.min_pixels, 0.5 * area)
            if enough.all():
                areas[object_id] = area
                return placed
        return None

    def _path(
        self,
        placed: "_Placed",
        length: int,
        size: tuple[int, int],
        reach: float,
        target: Float[np.ndarray, "2"],
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "T 2"]:
        """Returns an object's position in each frame, on a path past the clip's objects or out of it."""
        start, sides = placed.place, np.array(size[::-1])
        t = np.arange(length) / max(1, length - 1)
        if rng.random() < self.leave:
            axis, far = int(rng.integers(2)), bool(rng.random() < 0.5)
            radius = placed.radius() * (1 + self.object.scale + self.object.shear) + self.object.warp * max(
                size
            )
            away = np.zeros(2)
            away[axis] = radius + (sides[axis] - start[axis] if far else start[axis])
            comes_back = length > 2 and rng.random() < 0.5
            course = 4 * t * (1 - t) if comes_back else t
            return start + (1 if far else -1) * away * course[:, None] / course.max()
        middle = start + reach * (target + rng.uniform(-0.2, 0.2, 2) * sides - start)
        end = start + reach * (rng.uniform(0.1, 0.9, 2) * sides - start)
        # The parabola through start, middle and end.
        shares = np.stack([(1 - t) * (1 - 2 * t), 4 * t * (1 - t), t * (2 * t - 1)], 1)
        return shares @ np.stack([start, middle, end])


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A cut-out at its position in frame 0: (x, y) of its anchor, and its magnification."""

    cutout: cutouts_lib.Cutout
    place: Float[np.ndarray, "2"]
    factor: float
    mirrored: bool

    def to_unit(self, time: int) -> Float[np.ndarray, "2 3"]:
        """Returns the matrix from crop pixels to a sprite's unit square, at the position in frame 0."""
        height, width = self.cutout.sprites[time].shape[:2]
        linear = np.diag([-1 / self.factor if self.mirrored else 1 / self.factor, 1 / self.factor])
        shift = self.cutout.anchors[time] - linear @ self.place
        return np.column_stack([linear, shift]) / np.array([[width], [height]])

    def radius(self) -> float:
        """Returns the largest distance from the anchor to a sprite's corner, in crop pixels."""
        reaches = [
            np.hypot(*np.maximum(anchor, np.array(sprite.shape[1::-1]) - anchor))
            for sprite, anchor in zip(self.cutout.sprites, self.cutout.anchors, strict=True)
        ]
        return float(max(reaches)) * self.factor

    def scaled(self) -> list[UInt8[np.ndarray, "h w 4"]]:
        """Returns the sprites, shrunk if bilinear sampling of them would alias."""
        if self.factor >= 0.75:
            return list(self.cutout.sprites)
        small = {
            id(sprite): cv2.resize(
                sprite,
                [max(4, round(side * self.factor)) for side in sprite.shape[1::-1]],
                interpolation=cv2.INTER_AREA,
            )
            for sprite in self.cutout.sprites
        }
        return [small[id(sprite)] for sprite in self.cutout.sprites]


def _middle(opacity: UInt8[np.ndarray, "H W"]) -> Float[np.ndarray, "2"]:
    """Returns the centroid (x, y) of the opaque pixels, or the centre of the image if there are none."""
    moments = cv2.moments(opacity)
    if moments["m00"] == 0:
        return np.array(opacity.shape[::-1]) / 2
    return np.array([moments["m10"], moments["m01"]]) / moments["m00"]
