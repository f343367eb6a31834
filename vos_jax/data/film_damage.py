"""Frames of a film that are lost or wrong, counted while it is read."""

import array
import bisect
from collections.abc import Iterable, Iterator

import av
import av.error


class Damage:
    """Counts the frames of one reading that are lost or wrong.

    Args:
      packets: times of all packets that give a frame, ascending.
    """

    def __init__(self, packets: "array.array[int]"):
        self.error: av.error.FFmpegError | None = None
        self.lost: list[int] = []
        self._packets, self._wrong = packets, []
        self._errors, self._last, self._doubtful, self._is_joined = 0, None, None, False

    def count(self, error: av.error.FFmpegError) -> None:
        """Notes that a packet cannot be decoded."""
        self.error = error
        self._errors += 1

    def lost_before(self, pts: int | None) -> Iterable[int]:
        """Returns the times of packets that gave no frame, between the last frame and one at `pts`.

        A decoder with threads says late which packet it failed on, hence by time. No more are taken for lost
        than there were errors, because some packets never give a frame.
        """
        last = self._last
        self._last = pts
        if not self._errors or pts is None or last is None:
            return ()
        found = self._packets[
            bisect.bisect_right(self._packets, last) : bisect.bisect_left(self._packets, pts)
        ]
        found, self._errors = found[: self._errors], 0
        return found

    def see(self, picture: av.VideoFrame, index: int, *, joined: bool) -> None:
        """Notes a frame that the decoder marks as wrong."""
        self._is_joined |= joined
        # The last packet before a join looks as if its end was missing.
        if self._doubtful is not None and not joined:
            self._wrong.append(self._doubtful)
        self._doubtful = index if picture.is_corrupt else None

    def lines(self, step: int) -> Iterator[str]:
        """Yields what the user should know; `step` is most of the time between two frames."""
        wrong = [*self._wrong, *([] if self._doubtful is None else [self._doubtful])]
        reason = f" ({self.error.strerror})" if self.error is not None else ""
        missing = 0
        if self._last is not None and not self._is_joined:
            missing = len(self._packets) - bisect.bisect_right(self._packets, self._last + step)
        if self.lost:
            yield f"cannot decode {_listed(self.lost)}{reason}; the frame before is shown again"
        if missing:
            yield f"cannot decode its last {missing} frame(s){reason}, which are left out"
        elif self.error is not None and not self.lost:
            yield f"cannot decode some packets{reason}; frames may be missing"
        if wrong:
            yield f"is damaged in {_listed(wrong)}: frames from {wrong[0]} on may show something else"


def _listed(frames: list[int]) -> str:
    named = ", ".join(map(str, frames[:5])) + (f", ... {len(frames)} in all" if len(frames) > 5 else "")
    return f"frame{'s' if len(frames) > 1 else ''} {named}"
