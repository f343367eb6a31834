"""Animated images that FFmpeg does not decode (WebP, AVIF) and TIFFs of several pages, read by Pillow."""

import fractions
import pathlib
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
from PIL import Image

from vos_jax import errors, files
from vos_jax.data import image_files, mask_files
from vos_jax.data.reader import Frame, Reader
from vos_jax.typing import UInt8

PAGE_SECONDS = fractions.Fraction(1, 24)
"""Time of a page or picture that does not say how long it is shown."""

_FORMATS = ("WEBP", "TIFF", "AVIF")


def is_animation(path: pathlib.Path) -> bool:
    """Returns whether a file is an animation that this module reads."""
    try:
        with files.open_regular(path) as file:
            head = file.read(16)
            if not _is_known(head):
                return False
            return image_files.count_pictures(path, file) > 1
    except OSError:
        return False


def _is_known(head: bytes) -> bool:
    is_tiff = head[:4] in (b"II*\0", b"MM\0*")
    return is_tiff or (head[:4], head[8:12]) == (b"RIFF", b"WEBP") or head[4:12] == b"ftypavis"


class Animation:
    """An animation in one image file; see `media.Media`."""

    def __init__(self, path: pathlib.Path):
        self.path, self.name = path, path.stem
        self.aspect = fractions.Fraction(1)
        self.time_base = fractions.Fraction(1, 1000)
        self.size, times = (0, 0), []
        for frame in self._read(0):
            self.size = frame.image.shape[:2]
            times.append(frame.time)
        self.num_frames = self.max_frames = len(times)
        self.rate = ((len(times) - 1) / times[-1]).limit_denominator(1001)

    def mask_name(self, index: int) -> str:
        """Returns the frame's number."""
        return f"{index:06d}"

    def frames(self, start: int = 0, *, reverse: bool = False) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yields the frames from `start` on; VosError where one cannot be decoded, or if `reverse`."""
        if reverse:
            raise errors.VosError(f"{self.path}: an animation is read forward only; extract its frames")
        for frame in self._read(start):
            yield frame.image

    def open(self) -> Reader:
        """Opens the frames; there is no sound."""
        return Reader(self._read(0))

    def identity(self) -> dict[str, Any]:
        """The file's name and content."""
        return {"name": self.path.name, "sha256": files.sha256(self.path)}

    def _read(self, start: int) -> Generator[Frame, None, None]:
        time, index = fractions.Fraction(0), 0
        try:
            with files.open_regular(self.path) as file, Image.open(file, formats=list(_FORMATS)) as image:
                count = getattr(image, "n_frames", 1)
                for index in range(count):
                    image.seek(index)
                    mask_files.check_size(self.path, image.height, image.width)
                    image.load()
                    if index >= start:
                        yield Frame(self._checked(image_files.to_rgb(image), index), time)
                    lasts = fractions.Fraction(image.info.get("duration") or 0).limit_denominator(1000) / 1000
                    time += lasts or PAGE_SECONDS
        except (*mask_files.DAMAGE, RuntimeError) as error:
            raise errors.VosError(f"{self.path}: frame {index} cannot be decoded ({error})") from error

    def _checked(self, image: np.ndarray, index: int) -> np.ndarray:
        if self.size not in ((0, 0), image.shape[:2]):
            raise errors.VosError(
                f"{self.path}: frame {index} is {image.shape[1]}x{image.shape[0]}, the first one "
                f"{self.size[1]}x{self.size[0]} (width x height); all frames must have one size"
            )
        return image
