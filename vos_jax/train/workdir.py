"""Checks of a run's folder: `train.py` neither replaces nor truncates files of other programs."""

import json
import os
import pathlib
from collections.abc import Iterable

from vos_jax import errors, files, output_folder
from vos_jax.train import checkpoints, run_log

CONFIG = "config.json"
LOGS = (run_log.METRICS, run_log.EVALUATIONS)

_KEYS = {"config", "version", "commit", "command"}


def check(workdir: pathlib.Path, inputs: Iterable[str], every: int) -> None:
    """Raises VosError if a run would replace files of others, or truncate logs without a checkpoint.

    Args:
      workdir: the folder; it need not exist.
      inputs: folders of the data; empty names are ignored.
      every: steps between two checkpoints.

    Raises:
      VosError: the folder is, contains or is inside an input; it holds files of another program; its logs
        have steps that are too far after the last checkpoint.
    """
    output_folder.check_apart(workdir, [folder for folder in inputs if folder], "--workdir")
    folder = workdir / checkpoints.FOLDER
    there = [workdir / name for name in (CONFIG, *LOGS) if os.path.lexists(workdir / name)]
    there += [path for path in (folder, workdir / run_log.TENSORBOARD) if files.list_files(path)]
    noted = _noted(workdir / CONFIG)
    if there and noted is None:
        raise errors.VosError(
            f"{there[0]}: {workdir} holds files that train.py did not write; choose another --workdir"
        )
    if noted is not None:
        before = noted["config"].get("train.checkpoint.every", every)
        every = max(every, before if isinstance(before, int) else every)
    numbers = [path.name.rpartition("-")[2] for path in files.list_files(folder) if path.is_dir()]
    last = max((int(number) for number in numbers if number.isdecimal()), default=0)
    # While a checkpoint is written, training continues for at most `every` steps.
    explained = last + 2 * every if folder.is_dir() else 0
    for name in LOGS:
        _check_log(workdir / name, last, explained)


def _noted(path: pathlib.Path) -> dict | None:
    """Returns the config.json of a run; None if train.py did not write it."""
    try:
        noted = None if path.is_symlink() else files.read_json(path)
    except (OSError, ValueError):
        return None
    is_own = isinstance(noted, dict) and noted.keys() == _KEYS and isinstance(noted["config"], dict)
    return noted if is_own else None


def _check_log(path: pathlib.Path, last: int, explained: int) -> None:
    if not os.path.lexists(path):
        return
    try:
        if path.is_symlink():
            raise ValueError("it is a link")
        lines = path.read_text().splitlines()
        # The last line may be cut off.
        steps = [json.loads(line)["step"] for line in lines[:-1]]
        highest = max(steps, default=0)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.VosError(
            f"{path}: is not a log of train.py ({error}); move it away, or choose another --workdir"
        ) from error
    if highest > explained:
        raise errors.VosError(
            f"{path}: logs step {highest}, but the last checkpoint in {path.parent / checkpoints.FOLDER} is "
            f"of step {last}: restore the checkpoints, or choose another --workdir"
        )
