"""Video files that FFmpeg reads: the picture that players show, its frames, their times, and the sound."""

import contextlib
import fractions
import logging
import pathlib
import struct
from collections.abc import Generator, Iterator
from typing import Any, cast

import av
import av.error
import av.stream
import numpy as np

from vos_jax import errors, files
from vos_jax.data import film_clock, film_damage, film_decoder, film_file, mask_files
from vos_jax.data.reader import Frame, Reader
from vos_jax.typing import UInt8

log = logging.getLogger(__name__)

FPS = 24
"""Frames per second where nothing says how many there are."""

_TS_DISCONT = 0x0200  # AVFMT_TS_DISCONT: formats whose clock may jump

# A packet of these codecs may hold two frames ("packed" B-frames in AVI).
_PACKED = frozenset({"mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3"})


class VideoFile:
    """A file that FFmpeg reads; see `media.Media`.

    All packets are read at once and one frame is decoded, to know what can be known before any work. Damage
    is logged: a film that ends early, frames that are lost or wrong, sound that cannot be read.
    """

    def __init__(self, path: pathlib.Path):
        self.path, self.name = path, path.stem
        self._said: set[str] = set()
        with film_file.opened(path) as container:
            found = film_file.scan(container)
            stream = film_file.picture(path, container, found)
            self._stream, self._packets = stream.index, found.times[stream.index]
            self.time_base = stream.time_base or fractions.Fraction(1, 90_000)
            self.aspect = stream.sample_aspect_ratio or fractions.Fraction(1)
            self.rate = stream.average_rate or stream.base_rate or fractions.Fraction(FPS)
            self._jumps = bool(container.format.flags & _TS_DISCONT)
            self.num_frames = found.shown[stream.index]
            count = found.shown[stream.index] + found.hidden[stream.index]
            self.max_frames = 1.1 * count + 10 if stream.codec_context.name in _PACKED else count
            self._check_length(container, found)
            self._check_choice(container, found)
        self.size, self._is_turned = (0, 0), False
        first = next(self.frames(), None)
        if first is None:
            raise errors.VosError(f"{path}: has no frames")
        self.size = first.shape[:2]
        if self._is_turned:
            self.aspect = 1 / self.aspect

    def mask_name(self, index: int) -> str:
        """Returns the number, wide enough for nine hours to sort by name."""
        return f"{index:06d}"

    def frames(self, start: int = 0, *, reverse: bool = False) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yields the frames from `start` on; earlier ones are decoded, for later ones depend on them.

        A frame that cannot be decoded shows the one before it, so that later frames keep their numbers.

        Raises:
          VosError: no frame can be decoded, one has another size than the first; `reverse` is asked for.
        """
        if reverse:
            raise errors.VosError(f"{self.path}: a video file is read forward only; extract its frames")
        with contextlib.ExitStack() as stack:
            container = stack.enter_context(film_file.opened(self.path))
            # Without sound there is nothing but frames.
            for frame in self._read(container, None, start, stack):
                yield cast(Frame, frame).image

    def open(self) -> Reader:
        """Opens the frames and the sound, if it can be decoded."""
        stack = contextlib.ExitStack()
        container = stack.enter_context(film_file.opened(self.path))
        known = [stream for stream in container.streams.audio if stream.codec_context is not None]
        if container.streams.audio and not known:
            self._say("its sound is of a kind that this installation cannot decode, and is left out")
        default = av.stream.Disposition.default
        audio = next((each for each in known if each.disposition & default), known[0] if known else None)
        return Reader(self._read(container, audio, 0, stack), audio, stack)

    def identity(self) -> dict[str, Any]:
        """The file's name and content."""
        return {"name": self.path.name, "sha256": files.sha256(self.path)}

    # ---------------------------------------------------------------- frames

    def _read(
        self, container, audio, start: int, stack: contextlib.ExitStack
    ) -> Generator[Frame | av.Packet, None, None]:
        stream = cast(av.VideoStream, container.streams[self._stream])
        clock = film_clock.Clock(1 / self.rate, self.time_base, jumps=self._jumps)
        sound_clock = film_clock.Clock(1 / self.rate, self.time_base, jumps=self._jumps)
        damage = film_damage.Damage(self._packets)
        decoder = film_decoder.Decoder(self.path, stream, self.num_frames, damage, stack)
        image, index = np.zeros((0, 0, 3), np.uint8), 0
        for packet in film_file.packets(container, [stream] if audio is None else [stream, audio]):
            if packet.stream.index != stream.index:
                if packet.dts is not None:
                    sound_clock.shift(packet)
                    yield packet
                continue
            for picture in decoder.decode(packet):
                for pts in damage.lost_before(picture.pts):
                    # The frame before is shown again.
                    damage.lost.append(index)
                    time = clock(pts * self.time_base)
                    if index >= start:
                        yield Frame(image, time)
                    index += 1
                time = clock(None if picture.pts is None else picture.pts * self.time_base)
                damage.see(picture, index, joined=clock.restarted)
                image = self._upright(picture, index)
                if index >= start:
                    yield Frame(image, time)
                index += 1
        if index == 0 and damage.error is not None:
            raise errors.VosError(
                f"{self.path}: frame 0 cannot be decoded ({damage.error.strerror}); "
                f"`ffmpeg -i {self.path.name} whole.mp4` may repair the file"
            )
        for line in damage.lines(round(fractions.Fraction(3, 4) / self.rate / self.time_base)):
            self._say(line)

    def _upright(self, picture: av.VideoFrame, index: int) -> UInt8[np.ndarray, "H W 3"]:
        mask_files.check_size(self.path, picture.height, picture.width)
        image, self._is_turned = upright(picture.to_ndarray(format="rgb24"), _matrix(picture))
        if self.size != (0, 0) and image.shape[:2] != self.size:
            raise errors.VosError(
                f"{self.path}: frame {index} is {image.shape[1]}x{image.shape[0]}, the first one "
                f"{self.size[1]}x{self.size[0]} (width x height); all frames must have one size"
            )
        return np.ascontiguousarray(image)

    # ---------------------------------------------------------------- what the user should know

    def _say(self, line: str) -> None:
        """Logs a line, once per film however often it is read."""
        if line not in self._said:
            self._said.add(line)
            log.warning("%s: %s", self.path, line)

    def _check_length(self, container, found: film_file.Scan) -> None:
        """Logs that the film ends before the time in its header."""
        if container.duration is None or found.end is None:
            return
        stated = fractions.Fraction(container.duration, av.time_base)
        if found.end + fractions.Fraction(3, 2) / self.rate < stated:
            self._say(
                f"ends after {float(found.end):.2f} s, its header says {float(stated):.2f} s: the file may "
                "be cut short or damaged; the frames that are there are read"
            )
        elif found.error is not None:
            self._say(f"is damaged after {self.num_frames} frames ({found.error.strerror}), which are read")

    def _check_choice(self, container, found: film_file.Scan) -> None:
        """Logs which picture is read where there are several."""
        streams = [
            s for s in film_file.pictures(container) if s.codec_context is not None and found.shown[s.index]
        ]
        if len(streams) > 1:
            listed = ", ".join(f"{s.index}: {s.width}x{s.height}" for s in streams)
            self._say(f"holds {len(streams)} pictures ({listed}); number {self._stream} is read")


# ---------------------------------------------------------------- upright


Matrix = tuple[int, int, int, int]
"""Display matrix (a, b, c, d). The pixel (x, y) is shown at (a x + c y, b x + d y), up to a shift."""


def _matrix(picture: av.VideoFrame) -> Matrix:
    data = picture.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("9i", bytes(data)[:36])
    return a, b, c, d


def upright(image: np.ndarray, matrix: Matrix) -> tuple[np.ndarray, bool]:
    """Turns and mirrors a stored frame to what is shown.

    Args:
      image: [H, W, ...].
      matrix: other angles than quarters are rounded.

    Returns:
      The frame as shown, and whether rows have become columns.
    """
    a, b, c, d = matrix
    is_turned = abs(b) + abs(c) > abs(a) + abs(d)
    if is_turned:
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1], is_turned
