"""Decoding of a film's packets, with threads where the film is sound and packet by packet where it is not."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import cast

import av
import av.error

from vos_jax.data import film_damage, film_file, mask_files

MOST_LOST = 64
"""Decoders with threads lose no more frames at the end; films with more had fewer frames than packets."""


class Decoder:
    """Decodes the packets of one stream; damage is counted and does not end the film.

    Decoders with threads tell of an error late, or never at the end of a film, and frames are lost with it.
    So the first error starts a second decoder without such threads, which catches up.

    Args:
      path: the film.
      stream: of the open film, whose packets are given to `decode`.
      count: number of frames that the packets should give.
      damage: counts what cannot be decoded.
      stack: closes what the decoder opens.
    """

    def __init__(
        self,
        path: pathlib.Path,
        stream: av.VideoStream,
        count: int,
        damage: film_damage.Damage,
        stack: contextlib.ExitStack,
    ):
        self._path, self._index, self._damage, self._stack = path, stream.index, damage, stack
        self._given = self._returned = 0
        # Hidden frames of VP8 have packets of their own.
        self._count = 0 if stream.codec_context.name == "vp8" else count
        self._careful: Iterator[list[av.VideoFrame]] | None = None
        _prepare(stream, "AUTO")

    def decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        """Returns the pictures that are ready after the stream's next packet."""
        self._given += 1
        if self._careful is not None:
            return next(self._careful, [])
        try:
            pictures = cast(list[av.VideoFrame], packet.decode())
        except av.error.FFmpegError:
            return self._catch_up()
        self._returned += len(pictures)
        is_end = packet.size == 0
        if is_end and 0 < self._count - self._returned <= MOST_LOST:
            pictures += self._catch_up()
        return pictures

    def _catch_up(self) -> list[av.VideoFrame]:
        self._careful = self._decode_carefully()
        skipped, found = 0, []
        for _ in range(self._given):
            for picture in next(self._careful, []):
                if skipped < self._returned:
                    skipped += 1
                else:
                    found.append(picture)
        return found

    def _decode_carefully(self) -> Iterator[list[av.VideoFrame]]:
        """Yields the pictures after each packet from the beginning."""
        container = self._stack.enter_context(film_file.opened(self._path))
        stream = cast(av.VideoStream, container.streams[self._index])
        _prepare(stream, "SLICE")
        for packet in film_file.packets(container, [stream]):
            try:
                yield cast(list[av.VideoFrame], packet.decode())
            except av.error.FFmpegError as error:
                self._damage.count(error)
                yield []


def _prepare(stream: av.VideoStream, threads: str) -> None:
    stream.thread_type = threads
    stream.codec_context.options = {"max_pixels": str(mask_files.MAX_PIXELS)}
