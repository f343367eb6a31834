"""The sound of a film in an mp4.

Sound never costs the picture: parts that cannot be passed on are left out and logged.
"""

import errno
import io
import logging
import re
from collections.abc import Iterator
from typing import cast

import av
import av.container
import av.error
import av.filter

log = logging.getLogger(__name__)

COPIED = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"})
"""Codecs that are copied to an mp4; others are encoded again as AAC."""

RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
"""Sample rates of AAC, in hertz; other sound is resampled to 48000."""

_CHANNELS = ("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR")
"""Channels in FFmpeg's own order."""

_DISK = frozenset({errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EROFS})


class Sound:
    """Adds a film's sound to a container.

    Args:
      container: an mp4 that is being written, before its first packet.
      source: the sound to add; it has a decoder.
      name: of the container, for the log.
    """

    def __init__(self, container: av.container.OutputContainer, source: av.AudioStream, name: str):
        self._container, self._name = container, name
        self._said = False
        self._last: int | None = None
        self._graph: av.filter.Graph | None = None
        self._made_for: tuple = ()
        context = source.codec_context
        self._copied = context.name in COPIED and _can_be_copied(source)
        if self._copied:
            self._stream = container.add_stream_from_template(source)
            return
        self._order = _make_native(context)
        self._rate = context.sample_rate if context.sample_rate in RATES else 48000
        self._layout = "mono" if context.channels == 1 else "stereo"
        self._stream = container.add_stream("aac", rate=self._rate, layout=self._layout)

    def add(self, packet: av.Packet) -> None:
        """Adds a packet of the source.

        Raises:
          OSError: the disk is full or fails.
        """
        if self._copied:
            packet.stream = self._stream
            self._mux([packet])
            return
        try:
            frames = cast(list[av.AudioFrame], packet.decode())
        except (av.error.FFmpegError, ValueError):
            self._say("parts of the sound cannot be decoded, and are silent")
            return
        for frame in frames:
            try:
                encoded = [packet for each in self._converted(frame) for packet in self._stream.encode(each)]
            except (av.error.FFmpegError, ValueError) as error:
                self._say(f"parts of the sound cannot be converted ({error}), and are silent")
                continue
            self._mux(encoded)

    def close(self) -> None:
        """Adds what is left; raises OSError as `add`."""
        if self._copied:
            return
        try:
            encoded = [packet for each in self._flushed() for packet in self._stream.encode(each)]
            encoded += self._stream.encode()
        except (av.error.FFmpegError, ValueError):
            return  # no sound came
        self._mux(encoded)

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            # A container refuses times that do not rise: broken recordings, and joined ones.
            if self._last is not None and packet.dts is not None and packet.dts <= self._last:
                continue
            self._last = self._last if packet.dts is None else packet.dts
            try:
                self._container.mux(packet)
            except (av.error.FFmpegError, ValueError) as error:
                if getattr(error, "errno", None) in _DISK:
                    raise
                self._say(f"parts of the sound cannot be written ({error}), and are silent")

    def _say(self, line: str) -> None:
        if not self._said:
            self._said = True
            log.warning("%s: %s", self._name, line)

    # ---------------------------------------------------------------- conversion

    def _converted(self, frame: av.AudioFrame) -> Iterator[av.AudioFrame]:
        """Yields a frame's sound in the rate, layout and format of the encoder."""
        wanted = (frame.sample_rate, frame.format.name, frame.layout.name)
        if self._graph is None or wanted != self._made_for:
            yield from self._flushed()
            self._graph, self._made_for = self._make_graph(frame), wanted
        self._graph.push(frame)
        yield from _pulled(self._graph)

    def _flushed(self) -> Iterator[av.AudioFrame]:
        if self._graph is not None:
            self._graph.push(None)
            yield from _pulled(self._graph)

    def _make_graph(self, frame: av.AudioFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        unit = frame.time_base or f"1/{frame.sample_rate}"
        arguments = {"sample_rate": str(frame.sample_rate), "sample_fmt": frame.format.name}
        nodes = [
            graph.add("abuffer", time_base=str(unit), channel_layout=frame.layout.name, **arguments),
            *([graph.add("pan", args=self._order)] if self._order else []),
            graph.add(
                "aformat",
                sample_rates=str(self._rate),
                sample_fmts="fltp",
                channel_layouts=self._layout,
            ),
            graph.add("abuffersink"),
        ]
        for one, two in zip(nodes, nodes[1:], strict=False):
            one.link_to(two)
        graph.configure()
        return graph


def _pulled(graph: av.filter.Graph) -> Iterator[av.AudioFrame]:
    while True:
        try:
            yield cast(av.AudioFrame, graph.pull())
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _make_native(context: av.AudioCodecContext) -> str:
    """Makes a decoder call its channels by their number if they lie in an order of their own.

    PyAV 18 frees the list of such an order twice, which ends the program. Here the only other owner of the
    list forgets it, before anything is decoded.

    Returns:
      The arguments of FFmpeg's filter "pan" that give the channels their names back; "" for a usual order.
    """
    name = context.layout.name
    found = re.fullmatch(r"(\d+) channels(?: \((.*)\))?", name)
    if found is None:
        return ""
    count = int(found[1])
    channels = (found[2] or "").split("+") if found[2] else []
    context.layout = f"{count}c"
    if len(channels) == count and len(set(channels)) == count and set(channels) <= set(_CHANNELS):
        named = "|".join(f"{channel}=c{i}" for i, channel in enumerate(channels))
        return f"{'+'.join(sorted(channels, key=_CHANNELS.index))}|{named}"
    # Channels without a place: the first two are heard.
    return "stereo|c0=c0|c1=c1" if count > 1 else "mono|c0=c0"


def _can_be_copied(source: av.AudioStream) -> bool:
    """Returns whether an mp4 takes the stream as it is."""
    try:
        with av.open(io.BytesIO(), "w", format="mp4") as trial:
            trial.add_stream_from_template(source)
            trial.start_encoding()
        return True
    except (av.error.FFmpegError, ValueError):
        return False
