"""Augmentation of training clips: numpy and OpenCV only, every draw from an explicit key.

Geometric transforms are composed in a `View` (a matrix) and applied once, by `Crop`, at crop size. All others
work on the rendered `Clip`. The order is that of the paper (supplement section 2): scale, horizontal flip,
temporal flip, crop. All other transforms are optional and off by default.
"""

import dataclasses
import functools
import zlib
from typing import TypeVar

import cv2
import numpy as np

from vos_jax import checks, errors, geometry
from vos_jax.data import origins as origins_lib
from vos_jax.typing import Float, UInt8


class UnusableClip(errors.VosError):
    """Error for a clip without an object in its first frame; the pipeline replaces the clip."""


@dataclasses.dataclass(frozen=True)
class Key:
    """A random key of plain integers: `fold` derives an independent key, `generator` draws from it.

    Like `jax.random.key`, but without JAX, so that workers do not initialise a device.
    """

    entropy: tuple[int, ...]

    def fold(self, name: str | int) -> "Key":
        """Returns the key of the stream `name`, independent of every other name's."""
        return Key((*self.entropy, zlib.crc32(name.encode()) if isinstance(name, str) else name))

    def generator(self) -> np.random.Generator:
        """Returns a fresh generator: the same key always draws the same numbers."""
        # numpy pads entropy with zeros: without the length, (1,) and (1, 0) would draw the same numbers.
        return np.random.default_rng((len(self.entropy), *self.entropy))


@dataclasses.dataclass(frozen=True)
class View:
    """Decoded frames of one clip, without padding frames, and a geometry that is not applied yet.

    Args:
      frames: uint8 RGB, each [H, W, 3].
      ids: uint8 object ids, each [H, W] (0 background), None for frames without annotation. A mask may have
        another resolution than its frame (reduced decoding), but the same field of view.
      size: height and width of the view in its own pixels.
      to_unit: [2, 3], maps (x, y, 1) in view pixels (pixel i covers [i, i + 1]) to the unit square of a
        frame.
    """

    frames: tuple[UInt8[np.ndarray, "H W 3"], ...]
    ids: tuple[UInt8[np.ndarray, "H W"] | None, ...]
    size: tuple[int, int]
    to_unit: Float[np.ndarray, "2 3"]

    def compose(self, matrix: Float[np.ndarray, "3 3"], size: tuple[int, int]) -> "View":
        """Returns the view whose pixels `matrix` maps to pixels of this one."""
        return dataclasses.replace(self, size=size, to_unit=self.to_unit @ matrix)


def make_view(frames: tuple[np.ndarray, ...], ids: tuple[np.ndarray | None, ...]) -> View:
    """Returns the view of frames [H, W, 3] and their ids [H, W] or None, without any transform."""
    height, width = frames[0].shape[:2]
    return View(frames, ids, (height, width), np.array([[1 / width, 0, 0], [0, 1 / height, 0]]))


@dataclasses.dataclass(frozen=True)
class Clip:
    """Rendered frames of one clip, without padding frames, padded at the bottom and right to the crop size.

    Args:
      frames: uint8 RGB, each [h, w, 3].
      ids: uint8, each [h, w], None for frames without annotation.
      size: real height and width inside the padded arrays.
      origins: the point that each cell shows (`data.origins`), None if all are unknown.
    """

    frames: tuple[UInt8[np.ndarray, "h w 3"], ...]
    ids: tuple[UInt8[np.ndarray, "h w"] | None, ...]
    size: tuple[int, int]
    origins: Float[np.ndarray, "T h/16 w/16 3"] | None = None


V = TypeVar("V", View, Clip)


def holds_object(ids: UInt8[np.ndarray, "H W"] | None) -> bool:
    """Returns whether an annotation shows any object; False without annotation."""
    return ids is not None and cv2.countNonZero(np.ascontiguousarray(ids)) > 0


def to_pixels(to_unit: Float[np.ndarray, "2 3"], size: tuple[int, int]) -> Float[np.ndarray, "2 3"]:
    """Returns the matrix from a view's pixel centres to an array's, both counted from 0 as in OpenCV."""
    matrix = to_unit * np.array([[size[1]], [size[0]]])
    matrix[:, 2] += matrix[:, :2].sum(axis=1) * 0.5 - 0.5
    return matrix


def render(view: View) -> Clip:
    """Samples every frame (bilinear) and mask (nearest) of a view at the view's own size."""
    height, width = view.size

    def warp(array: np.ndarray, interpolation: int) -> np.ndarray:
        matrix = to_pixels(view.to_unit, array.shape[:2])
        flags = interpolation | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(array, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)

    frames = tuple(warp(frame, cv2.INTER_LINEAR) for frame in view.frames)
    ids = tuple(None if ids is None else warp(ids, cv2.INTER_NEAREST) for ids in view.ids)
    return Clip(frames, ids, view.size)


def pad(clip: Clip, size: tuple[int, int]) -> Clip:
    """Pads a clip with zeros at the bottom and right to `size` (no-op for one that fills it)."""
    fill = functools.partial(geometry.pad, size=size, mode="constant")
    ids = tuple(None if ids is None else fill(ids) for ids in clip.ids)
    origins = None if clip.origins is None else origins_lib.pad(clip.origins, size)
    return Clip(tuple(map(fill, clip.frames)), ids, clip.size, origins)


# --- geometry: View -> View, then one render ----------------------------------------------------------------


def resize(view: View, factor: float) -> View:
    """Returns the view enlarged by `factor`, sides rounded to whole pixels."""
    size = (max(1, round(view.size[0] * factor)), max(1, round(view.size[1] * factor)))
    return view.compose(np.diag([view.size[1] / size[1], view.size[0] / size[0], 1.0]), size)


def enlarge(view: View, size: tuple[int, int]) -> View:
    """Enlarges a view just enough for a crop of `size`; larger views are unchanged."""
    return resize(view, max(1.0, size[0] / view.size[0], size[1] / view.size[1]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """Scales all frames of a clip by one factor (supplement section 2: [1, 1.5]).

    Attributes:
      low: Smallest enlargement.
      high: Largest enlargement.
    """

    low: float = 1.0
    high: float = 1.5

    def __post_init__(self):
        checks.above(self, 0, "low")
        checks.increasing(self, "low", "high")

    def __call__(self, view: View, key: Key) -> View:
        return resize(view, key.generator().uniform(self.low, self.high))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HorizontalFlip:
    """Mirrors all frames of a clip together (supplement section 2).

    Attributes:
      prob: Probability that a clip is mirrored.
    """

    prob: float = 0.5

    def __post_init__(self):
        checks.probability(self, "prob")

    def __call__(self, view: View, key: Key) -> View:
        if key.generator().random() >= self.prob:
            return view
        return view.compose(np.array([[-1.0, 0, view.size[1]], [0, 1, 0], [0, 0, 1]]), view.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemporalFlip:
    """Reverses the frames of a clip (supplement section 2).

    A clip whose last frame shows no object keeps its order, because frame 0 must show one.

    Attributes:
      prob: Probability that a clip is reversed.
    """

    prob: float = 0.5

    def __post_init__(self):
        checks.probability(self, "prob")

    def __call__(self, clip: V, key: Key) -> V:
        if key.generator().random() >= self.prob or not holds_object(clip.ids[-1]):
            return clip
        flipped = dataclasses.replace(clip, frames=clip.frames[::-1], ids=clip.ids[::-1])
        if isinstance(flipped, Clip) and flipped.origins is not None:
            return dataclasses.replace(flipped, origins=flipped.origins[::-1])
        return flipped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop:
    """Crops all frames at one random position that shows an object of frame 0 (supplement section 2).

    Draws up to `tries` uniform positions until one contains the share `keep` of a random object of frame 0
    (or of the crop's area, if that is less), then draws around the object.

    Attributes:
      size: Height and width.
      keep: Share of an object of the first frame that the crop must contain; 0 is the paper's crop, which
        ignores objects.
      tries: Uniform draws before a draw around the object.
    """

    size: tuple[int, int] = dataclasses.field(default=(352, 352), metadata={"follows": "train.data.crop"})
    keep: float = 0.25
    tries: int = 10

    def __post_init__(self):
        checks.probability(self, "keep")
        checks.at_least(self, 0, "tries")

    def place(self, view: View, key: Key) -> View:
        """Returns the view of the crop (smaller than `size` only if the view itself is).

        Raises:
          UnusableClip: frame 0 shows no object.
        """
        ids = view.ids[0]
        if ids is None or not holds_object(ids):
            raise UnusableClip("the first frame of the clip shows no object")
        rng = key.generator()
        size = (min(self.size[0], view.size[0]), min(self.size[1], view.size[1]))
        room = (view.size[0] - size[0], view.size[1] - size[1])
        areas = np.bincount(ids.ravel(), minlength=256)
        areas[0] = 0
        # All objects are equally likely, independent of their size.
        chosen = int(rng.choice(np.flatnonzero(areas)))
        mask = (ids == chosen).view(np.uint8)
        sums = cv2.integral(mask)
        pixels_per_view = ids.size / (view.size[0] * view.size[1])
        wanted = self.keep * min(areas[chosen], size[0] * size[1] * pixels_per_view)

        def at(y: int, x: int) -> View:
            return view.compose(np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]]), size)

        for _ in range(self.tries):
            placed = at(int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1)))
            if _count(sums, placed) >= wanted:
                return placed
        # Centre on the object's pixel nearest to its centroid, with a random offset.
        ys, xs = np.nonzero(mask)
        nearest = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
        unit = np.array([(xs[nearest] + 0.5) / ids.shape[1], (ys[nearest] + 0.5) / ids.shape[0]])
        x, y = np.linalg.solve(view.to_unit[:, :2], unit - view.to_unit[:, 2])
        middle = np.array([y, x]) + rng.uniform(-0.25, 0.25, 2) * size
        return at(*np.clip(middle - np.array(size) / 2, 0, room).astype(int).tolist())

    def __call__(self, view: View, key: Key) -> Clip:
        return pad(render(self.place(view, key)), self.size)


def _count(sums: np.ndarray, view: View) -> int:
    """Counts the mask pixels inside a view, from the mask's integral image [H + 1, W + 1]."""
    height, width = sums.shape[0] - 1, sums.shape[1] - 1
    corners = view.to_unit @ np.array([[0, view.size[1]], [0, view.size[0]], [1, 1]])
    xs = np.clip(np.rint(np.sort(corners[0]) * width), 0, width).astype(int)
    ys = np.clip(np.rint(np.sort(corners[1]) * height), 0, height).astype(int)
    return int(sums[ys[1], xs[1]] - sums[ys[0], xs[1]] - sums[ys[1], xs[0]] + sums[ys[0], xs[0]])


# --- objects and colours: Clip -> Clip ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectObjects:
    """Selects the objects of a clip and numbers them 1..N; everything else becomes background (0).

    An object must have at least `min_pixels` pixels in frame 0 after the crop, because later objects have no
    mask in the memory. If there are more than `max_objects`, a random subset is kept. With probability `drop`
    one of several objects becomes background, with probability `merge` two become one.

    Attributes:
      max_objects: Maximum number of objects of a clip.
      min_pixels: An object of frame 0 with fewer pixels becomes background.
      drop: Probability that one of several objects becomes background.
      merge: Probability that two objects become one.

    Raises:
      UnusableClip: no object is left in frame 0.
    """

    max_objects: int = dataclasses.field(default=4, metadata={"follows": "train.data.max_objects"})
    min_pixels: int = 32
    drop: float = 0.0
    merge: float = 0.0

    def __post_init__(self):
        checks.probability(self, "drop", "merge")

    def __call__(self, clip: Clip, key: Key) -> tuple[Clip, int]:
        """Returns the clip and its number of objects."""
        rng = key.generator()
        first = clip.ids[0]
        areas = np.zeros(256, int) if first is None else np.bincount(first.ravel(), minlength=256)
        areas[0] = 0
        found = rng.permutation(np.flatnonzero(areas >= self.min_pixels))
        if len(found) == 0:
            raise UnusableClip(
                f"no object has {self.min_pixels} pixels in the first frame of the clip "
                "(train.data.augmentation.objects.min_pixels)"
            )
        groups = [[int(i)] for i in found]
        if len(groups) > 1 and rng.random() < self.drop:
            groups.pop()
        if len(groups) > 1 and rng.random() < self.merge:
            groups[0] += groups.pop()
        groups = sorted(groups[: self.max_objects], key=min)
        table = np.zeros(256, np.uint8)
        for number, group in enumerate(groups, start=1):
            table[group] = number
        ids = tuple(None if frame is None else cv2.LUT(frame, table) for frame in clip.ids)
        return dataclasses.replace(clip, ids=ids), len(groups)
