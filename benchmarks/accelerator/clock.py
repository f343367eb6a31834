"""A deadline."""

import time


class Clock:
    """Counts down to a deadline.

    Args:
      seconds: from now.
      within: another clock, whose deadline is the latest possible.
    """

    def __init__(self, seconds: float, within: "Clock | None" = None):
        self._end = time.monotonic() + (seconds if within is None else min(seconds, within.left()))

    def left(self) -> float:
        """Returns the seconds until the deadline; negative after it."""
        return self._end - time.monotonic()
