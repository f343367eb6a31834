"""Checkpoints of a run: written while it goes on, the best and the last few kept, a torn one skipped."""

import contextlib
import dataclasses
import logging
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from vos_jax import checks, checksums, errors

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
STATE, DATA = "state", "data"
SUMS = "checksums"
_TORN = "torn-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often, and which ones stay.

    Attributes:
      every: Steps between two checkpoints; every evaluation writes one besides.
      keep_last: Newest checkpoints kept; with two there is one before a torn one.
      keep_best: Checkpoints with the highest held-back J kept besides.

    Raises:
      VosError: a value out of range.
    """

    every: int = 1000
    keep_last: int = 2
    keep_best: int = 1

    def __post_init__(self):
        checks.at_least(self, 1, "every", "keep_last")
        checks.at_least(self, 0, "keep_best")


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint gave back."""

    step: int
    state: Any
    record: dict[str, Any]  # what `Checkpoints.save` was given


class Checkpoints:
    """WORKDIR/checkpoints; a context manager that waits for the last write.

    A checkpoint holds the state (parameters, EMA, optimiser, step, random key), the position in the training
    data, and a JSON record (the config and whatever else its writer notes). It appears by rename, so a run
    killed in mid-write leaves the one before as the newest.

    Args:
      workdir: the run's folder; made if it is not there.
      config: how many are kept.

    Raises:
      VosError: the folder cannot be written.
    """

    def __init__(self, workdir: pathlib.Path | str, config: CheckpointConfig):
        self.folder = pathlib.Path(workdir).resolve() / FOLDER
        policies = ocp.training.preservation_policies
        keep: list[Any] = [policies.LatestN(config.keep_last)]
        if config.keep_best:
            keep.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics["score"],
                    n=config.keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._checkpointer = ocp.training.Checkpointer(
                self.folder,
                preservation_policy=policies.AnyPreservationPolicy(keep),
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise errors.VosError(
                f"cannot write to {self.folder}: {error.strerror or error}; choose another --workdir"
            ) from error

    def steps(self) -> list[int]:
        """Steps that have a whole checkpoint, ascending, as far as a listing can tell."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def save(
        self, step: int, state: Any, data: Any, *, record: Mapping[str, Any], score: float | None = None
    ) -> None:
        """Starts to write a checkpoint; waits for the one before it, if that is still being written.

        Args:
          step: optimiser steps done; where there is a whole checkpoint of it, nothing happens.
          state: pytree of arrays; it may be donated as soon as this returns.
          data: the batch iterator (or anything that orbax can save).
          record: JSON-able; `score` is added to it.
          score: what "best" is judged by, higher is better; None where nothing was measured.

        Raises:
          VosError: this write or the one before it failed.
        """
        try:
            self._checkpointer.wait()
            if step in self.steps():
                return
            noted = {**record, "step": step, "score": score}
            sums = {"state": checksums.of_tree(state), "record": checksums.of_json(noted)}
            self._checkpointer.save_checkpointables_async(
                step,
                {STATE: state, DATA: data},
                force=True,
                metrics=None if score is None else {"score": score},
                custom_metadata={**noted, SUMS: sums},
            )
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Returns when everything is on disk; VosError if that failed."""
        try:
            self._checkpointer.wait()
        except Exception as error:
            raise self._failed(error) from error

    def restore(self, state: Any, data: Any = None) -> Restored | None:
        """Loads the newest checkpoint that can be read; None where there is none at all.

        One that cannot be read is reported, moved aside to `torn-STEP` and the one before it is taken. The
        number of devices and processes may differ from those that saved.

        Args:
          state: the state to be replaced, or shapes with shardings: says what goes where.
          data: the batch iterator, which is put at the saved position.

        Raises:
          VosError: there are checkpoints and none can be read, or the newest is of another model or of
            version 0.1.
        """
        abstract = jax.tree.map(as_abstract, state)
        problems: list[tuple[int, Exception]] = []
        for step in reversed(self.steps()):
            wanted = {STATE: abstract} | ({} if data is None else {DATA: data})
            try:
                record, loaded = self._load(step, wanted)
            except Exception as error:
                if _is_of_0_1(self.folder / str(step)):
                    raise errors.VosError(
                        f"{self.folder}: was begun before version 0.2, in another layout; repack it by "
                        f"`python -m benchmarks.layout_0_1 {self.folder.parent} NEW_WORKDIR --config ... "
                        "--data ...`, and go on in NEW_WORKDIR"
                    ) from error
                log.warning(
                    "checkpoint %s cannot be read (%s); taking the one before it",
                    self.folder / str(step),
                    _brief(error),
                )
                problems.append((step, error))
                continue
            self._move_aside([step for step, _ in problems])
            return Restored(step, loaded, record)
        if problems:
            step, error = problems[0]
            raise errors.VosError(
                f"{self.folder}: none of the {len(problems)} checkpoint(s) can be read into this model; the "
                f"newest, {step}: {_brief(error)}. Start in another --workdir, or go back to the config of "
                "this one"
            )
        return None

    def _load(self, step: int, wanted: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """A checkpoint's record and state; raises whatever a damaged file makes orbax or others raise."""
        problem = None
        try:
            record, sums = _record(self.folder, step)
            loaded = self._checkpointer.load_checkpointables(step, wanted)[STATE]
        except Exception as error:
            problem = error
        # What one process cannot read the others do not take, or they would go on from different steps.
        all_can = bool(np.all(multihost_utils.process_allgather(np.array(problem is None))))
        if not all_can:
            raise problem or ValueError("another process cannot read it")
        _check(loaded, sums)
        return record, loaded

    def close(self) -> None:
        """Waits for the last write; VosError if it failed."""
        try:
            self._checkpointer.close()
        except Exception as error:
            raise self._failed(error) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        try:
            self.close()
        except errors.VosError:
            # What is already on its way up says more.
            if kind is None:
                raise

    def _move_aside(self, steps: Sequence[int]) -> None:
        if steps and jax.process_index() == 0:
            for step in steps:
                target = self.folder / f"{_TORN}{step}"
                if not target.exists():
                    (self.folder / str(step)).rename(target)
        if steps:
            self._checkpointer.reload()

    def _failed(self, error: Exception) -> errors.VosError:
        if isinstance(error, errors.VosError):
            return error
        whole = steps(self.folder.parent)
        last = f"the last whole one is {whole[-1]}" if whole else "there is none yet"
        return errors.VosError(
            f"{self.folder}: cannot write a checkpoint ({_brief(error)}); {last}. Make room or make the "
            "folder writable, then run the same command again"
        )


def as_abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape, dtype and place of an array (or of what already says no more than these)."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), sharding=sharding)


def be_quiet() -> None:
    """For programs: no tracebacks of what orbax raises anyway, nor of its coroutines that this cuts off."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def hook(found: Any) -> None:
        code = getattr(found.object, "cr_code", None)
        of_orbax = code is not None and "orbax" in code.co_filename
        if not of_orbax and str(found.exc_value) != "Event loop is closed":
            show(found)

    sys.unraisablehook = hook


# --- reading a run's checkpoints without touching its folder ------------------------------------------------


def steps(workdir: pathlib.Path | str) -> list[int]:
    """Steps that a run has checkpoints of, ascending."""
    folder = pathlib.Path(workdir) / FOLDER
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def last_record(workdir: pathlib.Path | str) -> dict[str, Any] | None:
    """The record of the newest checkpoint whose record can be read; None where there is none."""
    for step in reversed(steps(workdir)):
        with contextlib.suppress(errors.VosError):
            return _record(pathlib.Path(workdir) / FOLDER, step)[0]
    return None


def find(workdir: pathlib.Path | str, which: str) -> tuple[int, dict[str, Any]]:
    """The step and the record of one checkpoint of a run.

    Args:
      workdir: the run's folder.
      which: "best" (by score; the newest where none has one), "last", or a step.

    Raises:
      VosError: no checkpoint there, or not that one.
    """
    folder = pathlib.Path(workdir) / FOLDER
    known = steps(workdir)
    if not known:
        raise errors.VosError(f"{folder}: no checkpoint; {workdir} is not the --workdir of a run of train.py")
    if which not in ("best", "last", *map(str, known)):
        raise errors.VosError(
            f"{folder}: no checkpoint {which!r}; there are {', '.join(map(str, known))}, best and last"
        )
    if which.isdigit():
        return int(which), _record(folder, int(which))[0]
    if which == "best":
        records = {step: _record(folder, step)[0] for step in known}
        scored = [step for step in known if records[step]["score"] is not None]
        if scored:
            best = max(scored, key=lambda step: records[step]["score"])
            return best, records[best]
    return known[-1], _record(folder, known[-1])[0]


def load_ema(workdir: pathlib.Path | str, step: int) -> dict[str, Any]:
    """The averaged weights in a checkpoint, as nested dicts of arrays on one device; nothing else is read."""
    folder = pathlib.Path(workdir) / FOLDER
    path = (folder / str(step)).resolve()
    sums = _record(folder, step)[1]
    try:
        tree = ocp.checkpointables_metadata(path).metadata[STATE]
        wanted = jax.tree.map(lambda leaf: ocp.PLACEHOLDER, tree) | {
            "ema": jax.tree.map(as_abstract, tree["ema"])
        }
        ema = ocp.load_checkpointables(path, {STATE: wanted})[STATE]["ema"]
        _check({"ema": ema}, sums)
        return ema
    # Whatever a damaged file makes orbax raise.
    except Exception as error:
        raise _damaged(path, error) from error


def _record(folder: pathlib.Path, step: int) -> tuple[dict[str, Any], dict[str, int]]:
    """What was noted with a checkpoint, and its state's checksums; older checkpoints have none."""
    path = (folder / str(step)).resolve()
    try:
        found = ocp.checkpointables_metadata(path)
        # Where orbax finds a file damaged it says that nothing was noted.
        noted = dict(found.custom_metadata or {})
        if not {"step", "score"} <= noted.keys() or not isinstance(noted["score"], float | int | None):
            raise ValueError("its record is missing")
        if not found.metadata.get(STATE):
            raise ValueError("the list of its arrays is missing")
        sums = noted.pop(SUMS, {"record": checksums.of_json(noted), "state": {}})
        if checksums.of_json(noted) != sums["record"]:
            raise ValueError("its record is not what was saved")
        return noted, dict(sums["state"])
    except Exception as error:
        raise _damaged(path, error) from error


def _is_of_0_1(path: pathlib.Path) -> bool:
    """Returns whether a checkpoint holds the lambdas of all data sets in one array."""
    try:
        return "lambda_logit" in ocp.checkpointables_metadata(path.resolve()).metadata[STATE]["ema"]
    # A damaged checkpoint is for `restore` to report.
    except Exception:
        return False


def _damaged(path: pathlib.Path, error: Exception) -> errors.VosError:
    return errors.VosError(f"{path}: cannot be read ({_brief(error)}); name another one by --checkpoint STEP")


def _check(state: Any, sums: Mapping[str, int]) -> None:
    """Raises ValueError where a branch of a state is not what was saved."""
    for name, found in checksums.of_tree(state).items() if sums else ():
        if found != sums[name]:
            raise ValueError(f"'{name}' is not what was saved: its file was altered")


def _brief(error: BaseException) -> str:
    """One line about the error that started it all; orbax wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = " ".join(str(error).split())
    return f"{type(error).__name__}: {line if len(line) <= 240 else f'{line[:100]} ... {line[-120:]}'}"
