"""Videos as people have them: a file that FFmpeg reads, or a folder of images, frame by frame.

Frames are upright (rotation metadata is applied) and carry their own times, so that variable frame rates
survive; memory does not grow with length.
"""

import contextlib
import dataclasses
import fractions
import hashlib
import os
import pathlib
import sys
from collections.abc import Collection, Generator, Iterator
from typing import Any, Protocol, cast

import av
import av.container
import av.error
import av.stream
import numpy as np

from vos_jax import errors, files
from vos_jax.data import image_files, mask_files, orientation
from vos_jax.data import video as video_lib
from vos_jax.typing import UInt8

FPS = 24
"""Frames per second where nothing says how many there are."""

# Containers that hold their own frames. FFmpeg also reads playlists, which name other files and hosts, image
# patterns, and any text as a terminal's screen.
_CONTAINERS = (
    "mov mp4 3gp 3g2 mj2 matroska webm avi gif apng webp mpeg mpegts mpegvideo m4v h264 hevc av1 obu ivf ogg "
    "flv asf dv mxf nut mjpeg yuv4mpegpipe rm swf wtv"
)
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(_CONTAINERS.split())}
# A title in no encoding at all is no reason to refuse a film; PyAV 19 takes it without being asked.
_LENIENT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame as it is shown: RGB uint8 [H, W, 3], and when, in seconds (rising within a video)."""

    image: UInt8[np.ndarray, "H W 3"]
    time: fractions.Fraction


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
    return VideoFile(path)


class Reader:
    """A video from its beginning: iterate for its `Frame`s and, between them, its sound's packets.

    Attributes:
      audio: the stream that the packets are of; None: silent.
    """

    def __init__(self, items: Generator, audio: av.AudioStream | None = None, stack=None):
        self.audio = audio
        self._items = items
        self._stack = stack or contextlib.ExitStack()

    def __iter__(self) -> Iterator[Frame | av.Packet]:
        return self._items

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_) -> None:
        self._items.close()
        self._stack.close()


class ImageFolder:
    """A folder of images in natural order (2 before 10); see `Media`."""

    def __init__(self, path: pathlib.Path, fps: float | None = None, exclude: Collection[pathlib.Path] = ()):
        hidden = {file.resolve() for file in exclude}
        paths = [p for p in files.list_files(path) if image_files.is_frame(p) and p.resolve() not in hidden]
        if not paths:
            raise errors.VosError(f"{path}: holds no images ({', '.join(image_files.EXTENSIONS)} are read)")
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
        self.rate = fractions.Fraction(fps or FPS).limit_denominator(1001)
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
        """Names and bytes of the images."""
        listed = [(path.name, path.stat().st_size) for path in self._video.frame_paths]
        digest = hashlib.sha256(repr(listed).encode()).hexdigest()[:16]
        return {"name": self.name, "images": digest}


class VideoFile:
    """A file that FFmpeg reads; see `Media`. One frame is decoded at once, to know that it can be."""

    def __init__(self, path: pathlib.Path):
        self.path, self.name = path, path.stem
        with _opened(path) as container:
            stream = _stream(path, container)
            self.time_base = stream.time_base or fractions.Fraction(1, 90_000)
            self.aspect = stream.sample_aspect_ratio or fractions.Fraction(1)
            self.rate = stream.average_rate or stream.base_rate or fractions.Fraction(FPS)
            seconds = fractions.Fraction(container.duration or 0, av.time_base)
            known = max(stream.frames, seconds * self.rate)
            # A frame that is shown for less than half of its time is one, too.
            self.num_frames = stream.frames or (max(1, round(known)) if known else None)
            # Headers may be wrong, but not by far: a mask of frame 5,000 of 300 is refused at once.
            self.max_frames = 1.1 * float(known) + 10 if known else float("inf")
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

        Raises:
          VosError: a frame cannot be decoded or has another size than the first; `reverse` is asked for.
        """
        if reverse:
            raise errors.VosError(f"{self.path}: a video file is read forward only; extract its frames")
        with _opened(self.path) as container:
            # Without sound there is nothing but frames.
            for frame in self._read(container, _stream(self.path, container), None, start):
                yield cast(Frame, frame).image

    def open(self) -> Reader:
        """Opens the frames and the first audio stream."""
        stack = contextlib.ExitStack()
        container = stack.enter_context(_opened(self.path))
        audio = container.streams.audio[0] if container.streams.audio else None
        return Reader(self._read(container, _stream(self.path, container), audio, 0), audio, stack)

    def identity(self) -> dict[str, Any]:
        """The file's size and beginning."""
        with open(self.path, "rb") as file:
            digest = hashlib.sha256(file.read(2**20)).hexdigest()[:16]
        return {"name": self.path.name, "bytes": self.path.stat().st_size, "beginning": digest}

    def _read(self, container, stream, audio, start: int) -> Generator[Frame | av.Packet, None, None]:
        stream.thread_type = "AUTO"
        index, last = 0, None
        packets = container.demux([stream] if audio is None else [stream, audio])
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                if packet.stream_index != stream.index:
                    if packet.dts is not None:
                        yield packet
                    continue
                pictures = packet.decode()
            except av.error.FFmpegError as error:
                raise errors.VosError(
                    f"{self.path}: frame {index} cannot be decoded ({error.strerror}); "
                    f"`ffmpeg -i {self.path.name} whole.mp4` may repair the file"
                ) from error
            for picture in pictures:
                time = None if picture.pts is None else picture.pts * self.time_base
                if last is not None and (time is None or time <= last):
                    time = last + (1 / self.rate if time is None else self.time_base)
                last = fractions.Fraction(0) if time is None else time
                if index >= start:
                    yield Frame(self._upright(picture, index), last)
                index += 1

    def _upright(self, picture: av.VideoFrame, index: int) -> UInt8[np.ndarray, "H W 3"]:
        mask_files.check_size(self.path, picture.height, picture.width)
        image, self._is_turned = orientation.upright(picture)
        if self.size != (0, 0) and image.shape[:2] != self.size:
            raise errors.VosError(
                f"{self.path}: frame {index} is {image.shape[1]}x{image.shape[0]}, the first one "
                f"{self.size[1]}x{self.size[0]} (width x height); all frames must have one size"
            )
        return np.ascontiguousarray(image)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[av.container.InputContainer]:
    # "file:" lest a name with a colon is taken for a network address.
    try:
        files.open_regular(path, sys.maxsize).close()
        container = av.open(f"file:{path}", options=_OPTIONS, **_LENIENT)
    except av.error.FFmpegError as error:
        reason = "not a video" if isinstance(error, av.error.InvalidDataError) else error.strerror
        raise errors.VosError(
            f"{path}: cannot be opened as a video ({reason}); mp4, mov, webm, avi, GIF and other films are "
            "taken, or a folder of images"
        ) from error
    except OSError as error:
        raise errors.VosError(f"{path}: cannot be opened as a video ({error.strerror})") from error
    with container:
        yield container


def _stream(path: pathlib.Path, container: av.container.InputContainer) -> av.VideoStream:
    """The first stream that is a film, not a cover picture."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise errors.VosError(f"{path}: holds no video, only {', '.join(_kinds(container)) or 'nothing'}")
    if streams[0].codec_context is None:
        raise errors.VosError(
            f"{path}: this installation of PyAV has no decoder for its codec; convert it with "
            f"`ffmpeg -i {path.name} converted.mp4`, or pip install --force-reinstall av"
        )
    streams[0].codec_context.options = {"max_pixels": str(mask_files.MAX_PIXELS)}
    return streams[0]


def _kinds(container: av.container.InputContainer) -> list[str]:
    return sorted({stream.type for stream in container.streams if stream.type != "video"})
