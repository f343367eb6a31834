"""Rendered videos: textured objects that move, turn, scale and occlude, with exact masks.

The demo and most tests use them, because they need no download.
"""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from vos_jax.data import mask_files
from vos_jax.data import video as video_lib
from vos_jax.data.datasets import base, sprites
from vos_jax.errors import VosError
from vos_jax.typing import Float, UInt8, cached_property

_SHADE = 0.06  # Distance of a look-alike's hue from the object's, as a share of a full turn.


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderedVideo(video_lib.Video):
    """One rendered video, made by `make_video`; frames are drawn on demand, in any order.

    Attributes:
      frame_size: (height, width) in pixels.
      objects: Number of objects.
      seed: Changes textures and paths.
      away: (start, end) of each range of frames without objects.
      look_alikes: Number of background objects that look like the real ones.
    """

    frame_size: tuple[int, int]
    objects: int
    seed: int
    away: tuple[tuple[int, int], ...]
    look_alikes: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every frame."""
        return self.frame_size

    def fingerprint(self) -> str:
        """Returns a checksum of what the frames are drawn from."""
        return video_lib.checksum([self.name], [repr(self).encode()])

    @property
    def _seed(self) -> tuple[int, int]:
        return self.seed, zlib.crc32(self.name.encode())

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Returns frame `index` in RGB."""
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

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Returns the ids of frame `index`: each pixel has the uppermost object that covers half of it."""
        ids = np.zeros(self.size, np.uint8)
        for sprite in self._sprites:
            alpha = sprites.down(sprite.placed(index, np.ascontiguousarray(sprite.image[..., 3])), self.size)
            ids[alpha >= 0.5] = min(sprite.object_id, 1) if self.merge_objects else sprite.object_id
        return ids

    @cached_property
    def _sprites(self) -> list[sprites.Sprite]:
        """Sprites from the lowest to the uppermost; look-alikes are below the objects and have id 0."""
        rng = np.random.default_rng([*self._seed, 1])
        order = rng.permutation(self.objects)
        turn = rng.uniform(0, 2 * np.pi)

        def make(object_id: int, turn: float, *key: int, hue: float = 0.0) -> sprites.Sprite:
            rng = np.random.default_rng([*self._seed, *key])
            return sprites.Sprite.make(object_id, self.objects, self.size, turn, rng, hue=hue)

        others = [
            make(number % self.objects + 1, turn + np.pi / self.objects + number, 3, number, hue=_SHADE)
            for number in range(self.look_alikes)
        ]
        objects = [make(object_id + 1, turn, 2, object_id) for object_id in order.tolist()]
        return [
            *(dataclasses.replace(other, object_id=0) for other in others),
            *(dataclasses.replace(thing, away=self.away) for thing in objects),
        ]

    @cached_property
    def _background(self) -> Float[np.ndarray, "H2 W2 3"]:
        """A mossy ground, 1.5 times as large as the frame, so that the camera can move over it."""
        height, width = (round(1.5 * side) for side in self.size)
        rng = np.random.default_rng([*self._seed, 0])
        coarse, fine = sprites.noise(rng, (height, width), 3, 3), sprites.noise(rng, (height, width), 14, 4)
        colours = [[0.17, 0.24, 0.17], [0.36, 0.42, 0.25], [0.66, 0.60, 0.42], [0.80, 0.75, 0.62]]
        palette = np.array(colours, np.float32)
        position = np.clip(3 * (0.72 * coarse + 0.4 * fine - 0.06), 0, 2.999)
        below = position.astype(np.int32)
        share = (position - below)[..., None].astype(np.float32)
        ground = palette[below] * (1 - share) + palette[below + 1] * share
        # Shading by the slopes of the fine noise looks like relief.
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


def make_video(
    name: str = "rendered",
    *,
    size: tuple[int, int] = (480, 854),
    frames: int = 24,
    objects: int = 3,
    seed: int = 0,
    merge_objects: bool = False,
    away: tuple[tuple[int, int], ...] = (),
    look_alikes: int = 0,
) -> RenderedVideo:
    """Returns a rendered video; the same arguments give the same pixels.

    Args:
      name: part of the seed.
      size: height and width in pixels, at least 16.
      frames: number of frames; videos of different lengths have the same first frames.
      objects: number of objects, 1 to 64; their ids are 1..objects.
      seed: changes textures and paths.
      merge_objects: all objects are merged into one, as in DAVIS 2016.
      away: (start, end) of each range of frames without objects; objects take `sprites.SLIDE` frames to
        leave and to come back.
      look_alikes: number of background objects of a slightly different hue, which never leave.

    Raises:
      VosError: a number out of range.
    """
    if not 1 <= objects <= mask_files.MAX_OBJECTS:
        raise VosError(f"a rendered video holds 1 to {mask_files.MAX_OBJECTS} objects, not {objects}")
    if frames < 1 or min(size) < 16:
        raise VosError(f"a rendered video needs a frame and 16 pixels per side, not {frames} x {size}")
    return RenderedVideo(
        name=name,
        frame_names=tuple(f"{index:05d}" for index in range(frames)),
        annotated=tuple(range(frames)),
        merge_objects=merge_objects,
        num_objects=1 if merge_objects else objects,
        frame_size=size,
        objects=objects,
        seed=seed,
        away=away,
        look_alikes=look_alikes,
    )


def open_rendered(config: base.DatasetConfig) -> base.VideoDataset:
    """Returns the sample: one video, `make_video()`; each object's first mask is its prompt.

    Raises:
      VosError: `root` is not empty.
    """
    if config.root:
        raise VosError(
            f"data.kind=rendered draws its own video and reads no data; leave out {config.root} (--data)"
        )
    return base.VideoDataset(
        name="rendered",
        split="demo",
        names=("rendered",),
        open_video=functools.partial(make_video, merge_objects=config.merge_objects),
        listing="the rendered sample",
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
    palette) and `ImageSets/<year>/<split>.txt`. The same arguments give the same files.
    """
    root = pathlib.Path(root)
    for sequence in sequences:
        video = make_video(sequence, size=size, frames=frames, objects=objects, seed=seed)
        images, annotations = (root / kind / resolution / sequence for kind in ("JPEGImages", "Annotations"))
        images.mkdir(parents=True, exist_ok=True)
        annotations.mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(video.frame_names):
            Image.fromarray(video.frame(index)).save(images / f"{name}.jpg", quality=95)
            mask_files.write_mask(annotations / f"{name}.png", video.mask(index))
    listing = root / "ImageSets" / str(year) / f"{split}.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{sequence}\n" for sequence in sequences))
    return root
