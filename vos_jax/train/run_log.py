"""The log of a run: progress lines, JSON lines and TensorBoard; stops a run at NaN."""

import contextlib
import datetime
import json
import math
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from rich import console

from vos_jax import errors, files
from vos_jax.typing import UInt8

METRICS, EVALUATIONS, TENSORBOARD = "metrics.jsonl", "evaluations.jsonl", "tensorboard"


class RunLog:
    """Writes WORKDIR/metrics.jsonl, evaluations.jsonl and tensorboard/; a context manager.

    When a run is resumed, entries after its checkpoint are removed first, so that the files are those of an
    uninterrupted run. Only the first process writes.

    Args:
      workdir: the run's folder.
      screen: prints the progress lines.
      start: optimiser steps done before.
      total: steps of the whole run.
      clips: per step, over all processes.

    Raises:
      VosError: a file cannot be written.
    """

    def __init__(
        self, workdir: pathlib.Path | str, screen: console.Console, *, start: int, total: int, clips: int
    ):
        self.folder, self.total, self.clips = pathlib.Path(workdir), total, clips
        self._screen = screen
        self._last_step = start
        self._waited = self._paused = 0.0
        self._since: float | None = None
        self._writes = jax.process_index() == 0
        if self._writes:
            import tensorboardX  # here, because other users of this module do not need it

            with _clear_errors(self.folder):
                for name in (METRICS, EVALUATIONS):
                    keep_until(self.folder / name, start)
                self._board = tensorboardX.SummaryWriter(str(self.folder / TENSORBOARD), purge_step=start + 1)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time in this context as waiting for data."""
        before = time.perf_counter()
        yield
        self._waited += time.perf_counter() - before

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time in this context from the speed: evaluations, pictures, checkpoints."""
        before = time.perf_counter()
        yield
        self._paused += time.perf_counter() - before

    def begin(self, step: int) -> None:
        """Starts the clock after `step`, so that compilation is not counted."""
        self._last_step, self._since = step, time.perf_counter()
        self._waited = self._paused = 0.0

    def scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of one step to all outputs."""
        speed = self._speed(step)
        if not self._writes:
            return
        row = {"step": step, **metrics, **speed}
        with _clear_errors(self.folder):
            append(self.folder / METRICS, row)
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(f"train/{name}", value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self._screen.print(f"step {step}/{self.total}  {shown}  {self._shown_speed(step, speed)}")

    def evaluation(self, step: int, score: float, sequences: Mapping[str, float]) -> None:
        """Logs the mean J of one evaluation, over all objects and by sequence."""
        if not self._writes:
            return
        with _clear_errors(self.folder):
            append(self.folder / EVALUATIONS, {"step": step, "J": score, **sequences})
            self._board.add_scalar("evaluation/J", score, step)
            for name, value in sequences.items():
                self._board.add_scalar(f"evaluation/{name}", value, step)
        named = "  ".join(f"{name} {value:.3f}" for name, value in sequences.items())
        self._screen.print(f"step {step}: held-back J {score:.4f}  ({named})")

    def picture(self, step: int, sheet: UInt8[np.ndarray, "H W 3"]) -> None:
        """Writes a picture to TensorBoard."""
        if self._writes:
            with _clear_errors(self.folder):
                self._board.add_image("clip", sheet, step, dataformats="HWC")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if not self._writes:
            return
        try:
            with _clear_errors(self.folder):
                self._board.close()
        except errors.VosError:
            # The exception that is already raised is more informative.
            if kind is None:
                raise

    def _speed(self, step: int) -> dict[str, float | None]:
        """Returns clips per second and the share of time spent on data since the last logged step."""
        steps = step - self._last_step
        if self._since is None or not steps:
            return {"clips_per_s": None, "data_share": None}
        seconds = max(time.perf_counter() - self._since - self._paused, 1e-9)
        share = min(self._waited / seconds, 1.0)
        self.begin(step)
        return {"clips_per_s": steps * self.clips / seconds, "data_share": share}

    def _shown_speed(self, step: int, speed: Mapping[str, float | None]) -> str:
        if speed["clips_per_s"] is None:
            return ""
        left = (self.total - step) * self.clips / speed["clips_per_s"]
        eta = datetime.timedelta(seconds=round(left))
        return f"{speed['clips_per_s']:.2f} clips/s  data {speed['data_share']:.0%}  ETA {eta}"


def check_finite(
    step: int, metrics: Mapping[str, float], batch: Mapping[str, np.ndarray], workdir: pathlib.Path, hint: str
) -> None:
    """Stops a run with a NaN or infinite metric, and saves the batch.

    Args:
      step: of the metrics.
      batch: this process's batch of the step.
      hint: the last part of the message: what to do.

    Raises:
      VosError: a metric is NaN or infinite; the batch is in WORKDIR/nonfinite-STEP[-PROCESS].npz.
    """
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not bad:
        return
    process = f"-{jax.process_index()}" if jax.process_count() > 1 else ""
    path = workdir / f"nonfinite-{step}{process}.npz"
    try:
        arrays: dict[str, Any] = dict(batch)
        np.savez(path, **arrays)
        kept = f"its batch is in {path}"
    except OSError as error:
        kept = f"its batch could not be written to {path} ({error.strerror})"
    raise errors.VosError(f"step {step}: {', '.join(bad)} no longer finite; {kept}. {hint}")


def keep_until(path: pathlib.Path, step: int) -> None:
    """Removes the lines of later steps, and a last line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                kept.append(f"{line}\n")
    with files.atomic(path) as temporary:
        temporary.write_text("".join(kept))


def append(path: pathlib.Path, row: Mapping[str, Any]) -> None:
    """Adds a line of JSON to a file."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


@contextlib.contextmanager
def _clear_errors(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.VosError(
            f"{folder}: cannot write ({error.strerror or error}); the last checkpoint is complete: free disk "
            "space, then run the same command again"
        ) from error
