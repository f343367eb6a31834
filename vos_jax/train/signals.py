"""Graceful stopping: SIGTERM and Ctrl-C set a flag that the loop checks between two steps."""

import signal
from typing import Any

import jax
from jax.experimental import multihost_utils


class Stop:
    """A context in which SIGTERM and SIGINT set a flag instead of ending the process.

    A second signal of the same kind ends the process at once; the last checkpoint stays complete. With
    several processes JAX's preemption service handles SIGTERM, so that all stop at the same step.

    Attributes:
      signal: the received signal, or None.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}  # handlers, as `signal.signal` returns them

    def __enter__(self) -> "Stop":
        kinds = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ()
        self._before = {kind: signal.signal(kind, self._note) for kind in kinds}
        return self

    def __exit__(self, *_) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def requested(self, step: int) -> bool:
        """Returns whether to save and end after `step`; the same in every process."""
        if jax.process_count() == 1:
            return self.signal is not None
        return multihost_utils.reached_preemption_sync_point(step)

    def _note(self, number: int, frame: object) -> None:
        del frame
        self.signal = signal.Signals(number)
        signal.signal(number, self._before[self.signal])
