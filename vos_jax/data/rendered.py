"""Videos drawn by our own code: textured objects that move, turn, scale and occlude, with exact truth.

The demo and most tests live on them: nothing to download, every mask known to the pixel.
"""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from vos_jax.data import masks, sprites
from vos_jax.errors import VosError
from vos_jax.typing import Float, UInt8

_SHADE = 0.06  # How far a look-alike's hue is from the object's, of a whole turn.


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderedSource:
    """A `VideoSource` of rendered videos; the same fields give the same pixels.

    Args:
        sequence_names: one video is drawn per name; the name is part of its seed.
        size: height and width in pixels.
        frames: number of frames; a longer video begins with the shorter one's frames.
        objects: number of objects, 1 to 64; their ids are 1..objects.
        seed: changes textures and paths.
        merge_objects: all objects are one, as in DAVIS 2016.
        away: (start, end) of each stretch of frames in which no object is in the frame; they take
            `sprites.SLIDE` frames to leave, and to come back.
        look_alikes: how many more things there are that look like the objects but for a shade, stay, and are
            background.
    """

    sequence_names: tuple[str, ...] = ("rendered",)
    size: tuple[int, int] = (480, 854)
    frames: int = 24
    objects: int = 3
    seed: int = 0
    merge_objects: bool = False
    away: tuple[tuple[int, int], ...] = ()
    look_alikes: int = 0
    name: str = "rendered"
    split: str = "demo"

    def __post_init__(self):
        if not 1 <= self.objects <= masks.MAX_OBJECTS:
            raise VosError(f"a rendered video holds 1 to {masks.MAX_OBJECTS} objects, not {self.objects}")
        if self.frames < 1 or min(self.size) < 16:
            raise VosError(
                f"a rendered video needs a frame and 16 pixels a side, not {self.frames} x {self.size}"
            )

    def sequences(self) -> list[str]:
        """The names of the videos."""
        return list(self.sequence_names)

    def video(self, sequence: str) -> "RenderedVideo":
        """The video of that name; raises `VosError` for an unknown one."""
        if sequence not in self.sequence_names:
            raise VosError(f"no rendered sequence {sequence!r}: there are {', '.join(self.sequence_names)}")
        return RenderedVideo(
            sequence,
            size=self.size,
            frames=self.frames,
            objects=self.objects,
            seed=self.seed,
            merge_objects=self.merge_objects,
            away=self.away,
            look_alikes=self.look_alikes,
        )


class RenderedVideo:
    """One rendered video; frames are drawn when asked for, in any order."""

    def __init__(
        self,
        name: str,
        *,
        size: tuple[int, int],
        frames: int,
        objects: int,
        seed: int,
        merge_objects: bool = False,
        away: tuple[tuple[int, int], ...] = (),
        look_alikes: int = 0,
    ):
        self.name = name
        self.merge_objects = merge_objects
        self.size = size
        self.frame_names = tuple(f"{index:05d}" for index in range(frames))
        self._objects, self._away, self._look_alikes = objects, away, look_alikes
        self._seed = (seed, zlib.crc32(name.encode()))

    def __len__(self) -> int:
        return len(self.frame_names)

    def check(self) -> None:
        """Nothing can be missing or broken in what is drawn on demand."""

    @property
    def first_frames(self) -> dict[int, int]:
        """Object id -> the first frame that shows it; 0 but for an object that starts hidden by others."""
        return {
            object_id: index
            for index, ids in sorted(self._first_ids.items(), reverse=True)
            for object_id in ids
        }

    def inputs(self) -> dict[int, UInt8[np.ndarray, "H W"]]:
        """The annotations a tracker may see: each object's first one, and nothing else."""
        return {
            index: np.where(np.isin(self.annotation(index), ids), self.annotation(index), 0).astype(np.uint8)
            for index, ids in sorted(self._first_ids.items())
        }

    @functools.cached_property
    def _first_ids(self) -> dict[int, list[int]]:
        missing, found = {1} if self.merge_objects else set(range(1, self._objects + 1)), {}
        for index in range(len(self)):
            if not missing:
                break
            if shown := sorted(missing & set(np.unique(self.annotation(index)).tolist())):
                found[index] = shown
                missing -= set(shown)
        return found

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Frame `index` in RGB."""
        height, width = self.size
        image = self._background_at(index)
        offset = np.array([[1, 0, 0.02 * height], [0, 1, 0.03 * height]], np.float32)
        for sprite in self._sprites:
            layer = sprites.down(sprite.placed(index, sprite.image), self.size)
            colour, alpha = layer[..., :3], layer[..., 3:]
            shadow = cv2.warpAffine(cv2.GaussianBlur(alpha, (0, 0), 0.012 * height), offset, (width, height))
            image = image * (1 - 0.45 * shadow[..., None])
            image = image * (1 - alpha) + colour
        return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)

    def annotation(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """The true ids of frame `index`: of each pixel, the uppermost object that covers half of it."""
        ids = np.zeros(self.size, np.uint8)
        for sprite in self._sprites:
            alpha = sprites.down(sprite.placed(index, np.ascontiguousarray(sprite.image[..., 3])), self.size)
            ids[alpha >= 0.5] = min(sprite.object_id, 1) if self.merge_objects else sprite.object_id
        return ids

    @functools.cached_property
    def _sprites(self) -> list[sprites.Sprite]:
        """All things from the lowest to the uppermost; look-alikes lie below the objects and have id 0."""
        rng = np.random.default_rng([*self._seed, 1])
        order = rng.permutation(self._objects)
        turn = rng.uniform(0, 2 * np.pi)

        def make(object_id: int, turn: float, *key: int, hue: float = 0.0) -> sprites.Sprite:
            rng = np.random.default_rng([*self._seed, *key])
            return sprites.Sprite.make(object_id, self._objects, self.size, turn, rng, hue=hue)

        others = [
            make(number % self._objects + 1, turn + np.pi / self._objects + number, 3, number, hue=_SHADE)
            for number in range(self._look_alikes)
        ]
        objects = [make(object_id + 1, turn, 2, object_id) for object_id in order.tolist()]
        return [
            *(dataclasses.replace(other, object_id=0) for other in others),
            *(dataclasses.replace(thing, away=self._away) for thing in objects),
        ]

    @functools.cached_property
    def _background(self) -> Float[np.ndarray, "H2 W2 3"]:
        """A mossy ground half as large again as the frame, so that a camera can move over it."""
        height, width = (round(1.5 * side) for side in self.size)
        rng = np.random.default_rng([*self._seed, 0])
        coarse, fine = sprites.noise(rng, (height, width), 3, 3), sprites.noise(rng, (height, width), 14, 4)
        colours = [[0.17, 0.24, 0.17], [0.36, 0.42, 0.25], [0.66, 0.60, 0.42], [0.80, 0.75, 0.62]]
        palette = np.array(colours, np.float32)
        position = np.clip(3 * (0.72 * coarse + 0.4 * fine - 0.06), 0, 2.999)
        below = position.astype(np.int32)
        share = (position - below)[..., None].astype(np.float32)
        ground = palette[below] * (1 - share) + palette[below + 1] * share
        # Slopes of the fine noise towards the light make it read as relief.
        relief = cv2.Sobel(fine, cv2.CV_32F, 1, 0, ksize=3) + cv2.Sobel(fine, cv2.CV_32F, 0, 1, ksize=3)
        return np.clip(ground * (1 - 0.25 * np.tanh(2.5 * relief))[..., None], 0, 1).astype(np.float32)

    def _background_at(self, index: int) -> Float[np.ndarray, "H W 3"]:
        height, width = self.size
        phase = 2 * np.pi * index / sprites.FRAMES_PER_CYCLE
        zoom = 1 + 0.06 * np.sin(phase)
        matrix = np.array(
            [
                [zoom, 0, (0.25 + 0.12 * np.sin(phase)) * width - 0.5 * (zoom - 1) * width],
                [0, zoom, (0.25 + 0.08 * np.sin(2 * phase)) * height - 0.5 * (zoom - 1) * height],
            ],
            np.float64,
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(
            self._background, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT
        )


def write_davis(
    root: pathlib.Path | str,
    *,
    sequences: Sequence[str] = ("rendered",),
    frames: int = 24,
    size: tuple[int, int] = (480, 854),
    objects: int = 3,
    seed: int = 0,
    year: int = 2017,
    split: str = "val",
    resolution: str = "480p",
) -> pathlib.Path:
    """Writes rendered videos in the DAVIS layout and returns `root`.

    `JPEGImages/480p/<sequence>/00000.jpg`, `Annotations/480p/<sequence>/00000.png` (indexed, DAVIS
    palette) and `ImageSets/<year>/<split>.txt`. Same arguments, same files.
    """
    root = pathlib.Path(root)
    source = RenderedSource(
        sequence_names=tuple(sequences), size=size, frames=frames, objects=objects, seed=seed, split=split
    )
    for sequence in source.sequences():
        video = source.video(sequence)
        images, annotations = (root / kind / resolution / sequence for kind in ("JPEGImages", "Annotations"))
        images.mkdir(parents=True, exist_ok=True)
        annotations.mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(video.frame_names):
            Image.fromarray(video.frame(index)).save(images / f"{name}.jpg", quality=95)
            masks.write_mask(annotations / f"{name}.png", video.annotation(index))
    listing = root / "ImageSets" / str(year) / f"{split}.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{sequence}\n" for sequence in sequences))
    return root
