"""A video read from its beginning: frames with their times and, between them, packets of sound."""

import contextlib
import dataclasses
import fractions
from collections.abc import Generator, Iterator

import av
import numpy as np

from vos_jax.typing import UInt8


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame as it is shown: RGB uint8 [H, W, 3], and when, in seconds (rising within a video)."""

    image: UInt8[np.ndarray, "H W 3"]
    time: fractions.Fraction


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
