"""The file of a film: opening it safely, its packets, and the stream that players show."""

import array
import contextlib
import dataclasses
import fractions
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import av
import av.container
import av.error
import av.stream

from vos_jax import errors, files

# Containers that hold their own frames. FFmpeg also reads playlists, which name other files and hosts, image
# patterns, and any text as a terminal's screen.
_CONTAINERS = (
    "mov mp4 3gp 3g2 mj2 matroska webm avi gif apng webp mpeg mpegts mpegvideo m4v h264 hevc av1 obu ivf ogg "
    "flv asf dv mxf nut mjpeg yuv4mpegpipe rm swf wtv"
)
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(_CONTAINERS.split())}
# A title in no encoding at all is no reason to refuse a film; PyAV 19 takes it without being asked.
_LENIENT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


@dataclasses.dataclass
class Scan:
    """The packets of a film by stream.

    Attributes:
      shown: number of packets.
      hidden: number of packets that an edit list hides.
      times: of the shown packets of pictures, ascending, in units of the stream.
      end: of all streams, in seconds.
      error: the reason why the file could not be read on.
    """

    shown: dict[int, int]
    hidden: dict[int, int]
    times: "dict[int, array.array[int]]"
    end: fractions.Fraction | None = None
    error: av.error.FFmpegError | OSError | None = None


def scan(container: av.container.InputContainer) -> Scan:
    """Reads all packets, and decodes nothing."""
    streams = list(container.streams)
    found = Scan(
        {s.index: 0 for s in streams},
        {s.index: 0 for s in streams},
        {s.index: array.array("q") for s in streams},
    )
    ends: dict[int, int] = {}
    packets = container.demux()
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, OSError) as error:
            found.error = error
            break
        if packet is None:
            break
        index = packet.stream.index
        time = packet.dts if packet.pts is None else packet.pts
        if packet.size == 0 or index not in ends and time is None and packet.stream.type != "video":
            continue
        is_picture = packet.stream.type == "video"
        if packet.is_discard:
            found.hidden[index] += 1
        else:
            found.shown[index] += 1
            if is_picture and packet.pts is not None:
                found.times[index].append(packet.pts)
        if time is not None:
            lasts = packet.duration or 0
            if is_picture and not lasts and (rate := packet.stream.average_rate) and packet.time_base:
                lasts = round(1 / rate / packet.time_base)
            ends[index] = max(time + lasts, ends.get(index, time))
    for times in found.times.values():
        times[:] = array.array("q", sorted(times))
    bases = {s.index: s.time_base for s in streams if s.type != "data"}
    known = [end * base for index, end in ends.items() if (base := bases.get(index))]
    found.end = max(known, default=None)
    return found


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[av.container.InputContainer]:
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


def pictures(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Returns the streams that are films, not cover pictures or previews."""
    kinds = av.stream.Disposition
    stills = kinds.attached_pic | kinds.timed_thumbnails | kinds.still_image
    return [stream for stream in container.streams.video if not stream.disposition & stills]


def picture(path: pathlib.Path, container: av.container.InputContainer, found: Scan) -> av.VideoStream:
    """Returns the stream that players show: the default one; of several the largest, then the first."""
    streams = pictures(container)
    if not streams:
        kinds = sorted({stream.type for stream in container.streams if stream.type != "video"})
        raise errors.VosError(f"{path}: holds no video, only {', '.join(kinds) or 'nothing'}")
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise errors.VosError(
            f"{path}: this installation of PyAV has no decoder for its codec; convert it with "
            f"`ffmpeg -i {path.name} converted.mp4`, or pip install --force-reinstall av"
        )

    def rank(stream: av.VideoStream) -> tuple[bool, bool, int]:
        is_default = bool(stream.disposition & av.stream.Disposition.default)
        return found.shown[stream.index] > 0, is_default, stream.width * stream.height

    return max(known, key=rank)


def packets(container: av.container.InputContainer, streams: list[av.stream.Stream]) -> Iterator[av.Packet]:
    """Yields packets until the end, or until the file cannot be read on; `scan` tells the reason."""
    found = container.demux(streams)
    while True:
        try:
            packet = next(found, None)
        except (av.error.FFmpegError, OSError):
            return
        if packet is None:
            return
        yield packet
