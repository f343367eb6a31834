"""Checkpoints of a run: written asynchronously; keeps the best and the newest; skips damaged ones."""

import contextlib
import dataclasses
import logging
import math
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
from vos_jax.train import state_trees

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
STATE, DATA = "state", "data"
OPTIMISER = "opt_state"
"""The branch of the state that a change of the optimiser's settings may change."""
SUMS = "checksums"
_TORN = "torn-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Settings of the checkpoints.

    Attributes:
      every: Steps between two checkpoints; every evaluation also writes one.
      keep_last: Number of newest checkpoints kept; with 2, one is left if the newest is damaged.
      keep_best: Number of checkpoints with the highest held-out J that are kept in addition.

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
    """The contents of a checkpoint."""

    step: int
    state: Any
    record: dict[str, Any]  # as given to `Checkpoints.save`


class Checkpoints:
    """Saves and restores WORKDIR/checkpoints; a context manager that waits for the last write.

    A checkpoint holds the state (parameters, EMA, optimiser, step, random key), the position in the training
    data, and a JSON record (the config and other facts of the run). It is renamed into place, so if a run is
    killed while writing, the previous checkpoint is the newest.

    Args:
      workdir: the run's folder; created if missing.
      config: number of checkpoints to keep.

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
        """Returns the steps with a complete checkpoint, ascending; reads no file contents."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def save(
        self, step: int, state: Any, data: Any, *, record: Mapping[str, Any], score: float | None = None
    ) -> None:
        """Starts to write a checkpoint; first waits for the previous write to end.

        Args:
          step: optimiser steps done; if it has a complete checkpoint, nothing is written.
          state: pytree of arrays; it may be donated as soon as this returns.
          data: the batch iterator (or anything that orbax can save).
          record: JSON-able; `score` is added to it.
          score: the criterion of "best", higher is better; None if nothing was measured.

        Raises:
          VosError: this or the previous write failed.
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
        """Waits until everything is on disk; VosError if a write failed."""
        try:
            self._checkpointer.wait()
        except Exception as error:
            raise self._failed(error) from error

    def restore(self, state: Any, data: Any = None) -> Restored | None:
        """Loads the newest readable checkpoint; None if there is no checkpoint.

        An unreadable one is reported, renamed to `torn-STEP`, and the previous one is loaded. The number of
        devices and processes may differ from those that saved it. After a change of `train.optim.frozen`, the
        optimiser's state of what begins to learn keeps its value in `state`.

        Args:
          state: the state to be replaced, or its shapes with shardings.
          data: the batch iterator, which is moved to the saved position.

        Raises:
          VosError: there are checkpoints but none is readable, or the newest is of another model or of
            version 0.1.
        """
        abstract = jax.tree.map(as_abstract, state)
        problems: list[tuple[int, Exception]] = []
        for step in reversed(self.steps()):
            wanted = {STATE: abstract} | ({} if data is None else {DATA: data})
            try:
                saved = ocp.checkpointables_metadata((self.folder / str(step)).resolve()).metadata[STATE]
                lacking = state_trees.lacking(saved, abstract) if saved else ["everything"]
                if other := [path for path in lacking if not path.startswith(OPTIMISER)]:
                    raise ValueError(f"it is of another model, and has no {other[0]} of this one's shape")
                record, loaded = self._load(step, wanted, saved, state)
            except Exception as error:
                if _is_of_0_1(self.folder / str(step)):
                    raise errors.VosError(
                        f"{self.folder}: was started before version 0.2, in another layout; repack it by "
                        f"`python -m benchmarks.layout_0_1 {self.folder.parent} NEW_WORKDIR --config ... "
                        "--data ...`, and continue in NEW_WORKDIR"
                    ) from error
                log.warning(
                    "checkpoint %s cannot be read (%s); loading the previous one",
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
                f"newest, {step}: {_brief(error)}. Choose another --workdir, or use the config of this run"
            )
        return None

    def _load(self, step: int, wanted: dict[str, Any], saved: Any, fresh: Any) -> tuple[dict[str, Any], Any]:
        """Returns a checkpoint's record and state; passes on any exception that a damaged file causes.

        Args:
          step: of the checkpoint.
          wanted: what to load.
          saved: the tree that it has.
          fresh: a state; what the checkpoint's optimiser lacks is taken from it.
        """
        problem = None
        try:
            record, sums = _record(self.folder, step)
            if state_trees.same(saved, wanted[STATE]):
                loaded = self._checkpointer.load_checkpointables(step, wanted)[STATE]
            else:
                wanted = {**wanted, STATE: state_trees.as_saved(saved, wanted[STATE])}
                loaded = state_trees.merged(
                    self._checkpointer.load_checkpointables(step, wanted)[STATE], fresh
                )
                sums = {name: value for name, value in sums.items() if name != OPTIMISER}
                log.warning("%s: the optimiser begins anew with what was frozen", self.folder / str(step))
        except Exception as error:
            problem = error
        # All processes must load the same step, so one that cannot read it makes all of them fail.
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
            # The exception that is already raised is more informative.
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
        last = f"the last complete one is {whole[-1]}" if whole else "there is none yet"
        return errors.VosError(
            f"{self.folder}: cannot write a checkpoint ({_brief(error)}); {last}. Free disk space or make "
            "the folder writable, then run the same command again"
        )


def as_abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns the shape, dtype and sharding of an array or of a `jax.ShapeDtypeStruct`."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), sharding=sharding)


def be_quiet() -> None:
    """Hides log messages and tracebacks that orbax prints in addition to the exceptions it raises."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def hook(found: Any) -> None:
        code = getattr(found.object, "cr_code", None)
        of_orbax = code is not None and "orbax" in code.co_filename
        if not of_orbax and str(found.exc_value) != "Event loop is closed":
            show(found)

    sys.unraisablehook = hook


# --- reading a run's checkpoints without changing its folder ------------------------------------------------


def steps(workdir: pathlib.Path | str) -> list[int]:
    """Returns the steps of a run's checkpoints, ascending."""
    folder = pathlib.Path(workdir) / FOLDER
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def last_record(workdir: pathlib.Path | str) -> dict[str, Any] | None:
    """Returns the record of the newest checkpoint with a readable record; None if there is none."""
    for step in reversed(steps(workdir)):
        with contextlib.suppress(errors.VosError):
            return _record(pathlib.Path(workdir) / FOLDER, step)[0]
    return None


def find(workdir: pathlib.Path | str, which: str) -> tuple[int, dict[str, Any]]:
    """Returns the step and the record of one checkpoint of a run.

    Args:
      workdir: the run's folder.
      which: "best" (by score; the newest if none has a score), "last", or a step.

    Raises:
      VosError: the run has no checkpoint, or not this one.
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
        scores = {step: records[step]["score"] for step in known}
        scored = [step for step in known if scores[step] is not None and math.isfinite(scores[step])]
        if scored:
            best = max(scored, key=lambda step: records[step]["score"])
            return best, records[best]
    return known[-1], _record(folder, known[-1])[0]


def load_ema(workdir: pathlib.Path | str, step: int) -> dict[str, Any]:
    """Loads only the averaged weights of a checkpoint, as nested dicts of arrays on one device."""
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
    # orbax raises various errors for damaged files.
    except Exception as error:
        raise _damaged(path, error) from error


def _record(folder: pathlib.Path, step: int) -> tuple[dict[str, Any], dict[str, int]]:
    """Returns a checkpoint's record and its state's checksums; older checkpoints have none."""
    path = (folder / str(step)).resolve()
    try:
        found = ocp.checkpointables_metadata(path)
        # orbax returns no metadata if its file is damaged.
        noted = dict(found.custom_metadata or {})
        if not {"step", "score"} <= noted.keys() or not isinstance(noted["score"], float | int | None):
            raise ValueError("its record is missing")
        if not found.metadata.get(STATE):
            raise ValueError("the list of its arrays is missing")
        sums = noted.pop(SUMS, {"record": checksums.of_json(noted), "state": {}})
        if checksums.of_json(noted) != sums["record"]:
            raise ValueError("its record was changed after it was saved")
        return noted, dict(sums["state"])
    except Exception as error:
        raise _damaged(path, error) from error


def _is_of_0_1(path: pathlib.Path) -> bool:
    """Returns whether a checkpoint holds the lambdas of all data sets in one array."""
    try:
        return "lambda_logit" in ocp.checkpointables_metadata(path.resolve()).metadata[STATE]["ema"]
    # `restore` reports damaged checkpoints.
    except Exception:
        return False


def _damaged(path: pathlib.Path, error: Exception) -> errors.VosError:
    return errors.VosError(f"{path}: cannot be read ({_brief(error)}); name another one by --checkpoint STEP")


def _check(state: Any, sums: Mapping[str, int]) -> None:
    """Raises ValueError if a branch of a state differs from its checksum."""
    for name, found in checksums.of_tree(state).items() if sums else ():
        if name in sums and found != sums[name]:
            raise ValueError(f"'{name}' was changed after it was saved: its checksum differs")


def _brief(error: BaseException) -> str:
    """Describes the original error, which orbax wraps several times, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = " ".join(str(error).split())
    return f"{type(error).__name__}: {line if len(line) <= 240 else f'{line[:100]} ... {line[-120:]}'}"
