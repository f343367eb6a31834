"""Lanes: several videos that advance together, in one step for the frames of all of them.

An accelerator spends most of a frame on launching small kernels, and a step for several videos launches no
more of them than one for a single video. Each video has a thread, an engine and a session of its own; only
the engines' calls of the step meet.
"""

import contextlib
import functools
import itertools
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from vos_jax import errors
from vos_jax.inference import engine as engine_lib

log = logging.getLogger(__name__)


def make_lanes(engine: engine_lib.Engine, count: int) -> list[engine_lib.Engine]:
    """Returns `count` engines with the parameters of `engine`, each for one video at a time.

    Raises:
      VosError: the engine adapts to videos: the step is given one set of parameters.
    """
    if engine.adapts:
        raise errors.VosError("videos that are segmented together share their parameters: no --adapt")
    meeting = _Meeting(count)
    return [_LaneEngine(engine, meeting) for _ in range(count)]


class _LaneEngine(engine_lib.Engine):
    """An engine whose steps are taken together with those of other videos."""

    def __init__(self, like: engine_lib.Engine, meeting: "_Meeting"):
        super().__init__(
            like.model, like.params, like.config, source=like.source, intermediates=like.intermediates
        )
        self._meeting = meeting

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        return self._meeting.at_work()

    def _launch(self, inputs: engine_lib.Inputs, soft: bool) -> Any:
        call = _Call(self, inputs, soft)
        self._meeting.take(call)
        self.seconds["compile"] += call.compile_seconds
        if call.error is not None:
            raise call.error
        return call.outputs


class _Call:
    """A call of the step that waits for those of the other videos."""

    def __init__(self, engine: engine_lib.Engine, inputs: engine_lib.Inputs, soft: bool):
        self.engine, self.inputs, self.soft = engine, inputs, soft
        self.compile_seconds = 0.0
        self.done, self.outputs = False, None
        self.error: Exception | None = None


class _Meeting:
    """Waits until all videos at work have called the step; then runs those of the same shapes together.

    Args:
      count: of the videos that a step takes. If fewer have the same shapes, the first is computed again
        in the others' place, so that there is one program for all.
    """

    def __init__(self, count: int):
        self._count = count
        self._changed = threading.Condition()
        self._at_work = 0
        self._calls: list[_Call] = []
        self._programs: dict[Any, Any] = {}

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Others wait for the calls of the video that is segmented inside."""
        with self._changed:
            self._at_work += 1
        try:
            yield
        finally:
            with self._changed:
                self._at_work -= 1
                self._run_when_complete()

    def take(self, call: _Call) -> None:
        """Returns when a call has its outputs or its error."""
        with self._changed:
            self._calls.append(call)
            self._run_when_complete()
            self._changed.wait_for(lambda: call.done)

    def _run_when_complete(self) -> None:
        """Runs the calls if those of all videos are there. The lock is held."""
        if not self._calls or len(self._calls) < self._at_work:
            return
        calls, self._calls = sorted(self._calls, key=_shapes), []
        for _, group in itertools.groupby(calls, key=_shapes):
            self._run(list(group))
        self._changed.notify_all()

    def _run(self, calls: list[_Call]) -> None:
        """Runs calls of the same shapes; an error is that of each of them."""
        first = calls[0]
        try:
            padded = [*calls, *[first] * (self._count - len(calls))]
            inputs = first.inputs[0], tuple(call.inputs[1:] for call in padded)
            seconds = self._compile(first, inputs)
            for call, outputs in zip(calls, self._programs[_shapes(first)](*inputs), strict=False):
                call.outputs, call.compile_seconds = outputs, seconds
        except Exception as error:
            for call in calls:
                call.error = error
        for call in calls:
            call.done = True

    def _compile(self, call: _Call, inputs: tuple) -> float:
        """Compiles the program for a call's shapes where it is new; returns the seconds."""
        if _shapes(call) in self._programs:
            return 0.0
        start = time.perf_counter()
        log.info("compiling the step for %d videos at once", self._count)
        step = jax.vmap(functools.partial(call.engine.step, soft=call.soft), in_axes=(None, 0, 0, 0, 0))

        def together(params: Any, videos: tuple) -> tuple:
            outputs = step(params, *jax.tree.map(lambda *x: jnp.stack(x), *videos))
            return tuple(jax.tree.map(lambda x, i=i: x[i], outputs) for i in range(len(videos)))

        self._programs[_shapes(call)] = jax.jit(together).lower(*inputs).compile()
        seconds = time.perf_counter() - start
        log.info("compiled it in %.1f s", seconds)
        return seconds


def _shapes(call: _Call) -> tuple:
    """Returns what distinguishes the programs of calls."""
    _, _, frame, prompt, _ = call.inputs
    return frame.shape, prompt.given.shape, call.soft
