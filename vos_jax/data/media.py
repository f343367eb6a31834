"""Videos as people have them: a file that FFmpeg reads, or a folder of images, frame by frame.

Frames are upright (rotation metadata is applied) and carry their own times, so that variable frame rates
survive; memory does not grow with length.
"""

import fractions
import logging
import os
import pathlib
from collections.abc import Collection, Iterator
from typing import Any, Protocol

import numpy as np

from vos_jax import errors, files
from vos_jax.data import animation, film, image_files
from vos_jax.data import video as video_lib
from vos_jax.data.reader import Frame, Reader
from vos_jax.typing import UInt8

__all__ = ["Frame", "ImageFolder", "Media", "Reader", "open_media"]

log = logging.getLogger(__name__)


class Media(Protocol):
    """A `video.FrameSource` with times and sound, read any number of times, from any frame on."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> tuple[int, int]: ...  # (height, width) as shown, pixels

    @property
    def num_frames(self) -> int | None: ...  # None: not known before it is read

    @property
    def max_frames(self) -> float: ...  # surely no more than these; infinite where nothing is known

    @property
    def rate(self) -> fractions.Fraction: ...  # frames per second, on average

    @property
    def aspect(self) -> fractions.Fraction: ...  # a pixel's width over its height, as shown

    @property
    def time_base(self) -> fractions.Fraction: ...  # seconds; times are multiples of it

    def mask_name(self, index: int) -> str: ...  # a file's stem

    def frames(self, start: int = 0, *, reverse: bool = False) -> Iterator[UInt8[np.ndarray, "H W 3"]]: ...

    def open(self) -> "Reader": ...  # frames and sound, from the beginning

    def identity(self) -> dict[str, Any]: ...  # what tells this video from others, JSON-able


def open_media(
    path: str | os.PathLike, *, fps: float | None = None, exclude: Collection[pathlib.Path] = ()
) -> Media:
    """Opens a video file (mp4, mov, webm, avi, GIF, whatever FFmpeg reads) or a folder of images.

    Args:
      path: the file or the folder.
      fps: of a folder's frames.
      exclude: files of a folder that are no frames, such as a mask kept beside them.

    Raises:
      VosError: no such file, not a video, no frames, frames of several sizes, or no decoder for them.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return ImageFolder(path, fps, exclude)
    if not path.exists():
        raise errors.VosError(f"{path}: no such file or folder")
    return animation.Animation(path) if animation.is_animation(path) else film.VideoFile(path)


class ImageFolder:
    """A folder of images in natural order (2 before 10); see `Media`."""

    def __init__(self, path: pathlib.Path, fps: float | None = None, exclude: Collection[pathlib.Path] = ()):
        hidden = {file.resolve() for file in exclude}
        found = files.list_files(path)
        paths = [p for p in found if image_files.is_frame(p) and p.resolve() not in hidden]
        other = image_files.left_out(found)
        if not paths:
            raise errors.VosError(
                f"{path}: holds no images ({', '.join(image_files.EXTENSIONS)} are read)"
                + (f"; {other}" if other else "")
            )
        if other:
            log.warning("%s: %s", path, other)
        stems = [p.stem for p in paths]
        twice = next((p for i, p in enumerate(paths) if p.stem in stems[:i]), None)
        if twice is not None:
            raise errors.VosError(
                f"{twice}: two images are named '{twice.stem}'; their masks would be one file"
            )
        self.path, self.name = path, path.resolve().name or "video"
        self._video = video_lib.FolderVideo(
            name=self.name, frame_names=tuple(stems), annotated=(), frame_paths=tuple(paths), mask_paths={}
        )
        self.size, self.num_frames, self.max_frames = self._video.size, len(paths), len(paths)
        self.rate = fractions.Fraction(fps or film.FPS).limit_denominator(1001)
        self.time_base, self.aspect = 1 / self.rate, fractions.Fraction(1)
        self._video.check_frames()

    def mask_name(self, index: int) -> str:
        """Returns the image's own name."""
        return self._video.frame_names[index]

    def frames(self, start: int = 0, *, reverse: bool = False) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yields the frames from `start` on; VosError names an image that cannot be decoded."""
        return self._video.frames(start, reverse=reverse)

    def open(self) -> Reader:
        """Opens the frames; there is no sound."""
        return Reader(Frame(image, index * self.time_base) for index, image in enumerate(self.frames()))

    def identity(self) -> dict[str, Any]:
        """Names and contents of the images, and their rate, which times in exports follow from."""
        return {"name": self.name, "images": self._video.fingerprint(), "fps": str(self.rate)}
