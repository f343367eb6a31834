"""The times of a film's frames and sound: they rise, where recordings were joined, too."""

import fractions

import av

RESTART = fractions.Fraction(1, 10)
"""A clock that goes back by more seconds was restarted; FFmpeg's program has the same limit."""

JUMP = 10
"""Joined broadcasts are not paused for longer, in seconds; FFmpeg's program has the same limit."""


class Clock:
    """Makes times rise: joined recordings go on where the clock of the second one starts anew.

    Args:
      step: seconds between two frames.
      base: least time between two frames, in seconds.
      jumps: whether a jump ahead by more than `JUMP` seconds is a join, too.

    Attributes:
      restarted: whether the last time was the first of a joined recording.
    """

    def __init__(self, step: fractions.Fraction, base: fractions.Fraction, *, jumps: bool):
        self.restarted = False
        self._step, self._base, self._jumps = step, base, jumps
        self._offset, self._last = fractions.Fraction(0), None

    def __call__(self, time: fractions.Fraction | None) -> fractions.Fraction:
        """Returns when a frame of time `time` is shown, in seconds; None: a step after the last one."""
        self.restarted = False
        if time is None:
            time = fractions.Fraction(0) if self._last is None else self._last + self._step
        else:
            time = self._joined(time, self._step)
            if self._last is not None and time <= self._last:
                time = self._last + self._base
        self._last = time
        return time

    def shift(self, packet: av.Packet) -> None:
        """Moves the times of a packet of sound, which need not rise."""
        unit = packet.time_base
        if packet.dts is None or unit is None:
            return
        before = packet.dts * unit
        moved = self._joined(before, (packet.duration or 0) * unit)
        self._last = moved if self._last is None else max(moved, self._last)
        if by := round((moved - before) / unit):
            packet.dts += by
            packet.pts = None if packet.pts is None else packet.pts + by

    def _joined(self, time: fractions.Fraction, step: fractions.Fraction) -> fractions.Fraction:
        time += self._offset
        if self._last is None:
            return time
        if time < self._last - RESTART or (self._jumps and time > self._last + JUMP):
            self.restarted = True
            self._offset += self._last + step - time
            return self._last + step
        return time
