"""The saved states of a video: few files, spread over the frames segmented so far."""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

from vos_jax import errors, output_folder
from vos_jax.inference import session as session_lib
from vos_jax.inference import session_file

SAVE_SECONDS = 10.0
"""Least time between two saved states: an interruption costs about so much work."""

SAVE_SHARE = 0.02
"""Largest share of the time that is spent on saving states, however large they are."""

MAX_STATES = 16
"""Most states of a video that stay for corrections."""

MAX_BYTES = 2**28
"""Most bytes of these states together; the newest one stays however large it is."""


class StateFiles:
    """The saved states of one video: OUT/.states/NAME-INDEX.safetensors, INDEX frames segmented so far.

    The newest state is where an interrupted run goes on. Older ones are where a run goes on whose prompts
    changed; of these, the one whose neighbours are closest goes first, so the rest lie evenly.

    Args:
      output: the results folder.
      name: of the video.
      most: states that stay at the same time.
    """

    def __init__(self, output: output_folder.OutputFolder, name: str, *, most: int):
        self._output, self._name, self._most = output, name, most
        self._saved, self._cost = 0.0, 0.0

    def paths(self, first: int = 0) -> list[pathlib.Path]:
        """Returns the files of more than `first` frames, ascending."""
        found = self._output.path.glob(f"{output_folder.STATES}/*-????????.safetensors")
        own = [path for path in found if path.stem.rpartition("-")[0] == self._name]
        return sorted(path for path in own if path.stem[-8:].isdecimal() and index_of(path) > first)

    def begin(self, seconds: float) -> None:
        """Sets the time from which the next state counts; see `is_due`."""
        self._saved = seconds

    def is_due(self, seconds: float) -> bool:
        """Returns whether a state is to be saved.

        Args:
          seconds: wall time spent on the video so far, without compilation.
        """
        return seconds - self._saved >= max(SAVE_SECONDS, self._cost / SAVE_SHARE)

    def save(self, session: session_lib.Session, note: Mapping[str, Any], seconds: float) -> None:
        """Saves the state of a session, and removes one that is not needed any more.

        Args:
          session: its frames have their masks.
          note: kept with the state (`session_file.save`).
          seconds: as in `is_due`.

        Raises:
          VosError: it cannot be written.
        """
        start = time.perf_counter()
        path = self._output.path / output_folder.STATES / f"{self._name}-{session.index:08d}.safetensors"
        try:
            path.parent.mkdir(exist_ok=True)
            session_file.save(path, session, note)
            self._thin()
        except OSError as error:
            raise errors.VosError(f"{path}: cannot write: {error.strerror or error}") from error
        self._saved, self._cost = seconds, time.perf_counter() - start

    def _thin(self) -> None:
        paths = self.paths()
        sizes = [path.stat().st_size for path in paths]
        while len(paths) > self._most or (len(paths) > 1 and sum(sizes) > MAX_BYTES):
            ends = [0, *map(index_of, paths)]
            place = min(range(len(paths) - 1), key=lambda i: ends[i + 2] - ends[i])
            self._output.remove(paths.pop(place))
            del sizes[place]

    def forget(self, first: int = 0) -> None:
        """Removes the states of more than `first` frames that this program wrote.

        Raises:
          OSError: one cannot be removed.
        """
        for path in self.paths(first):
            self._output.remove(path)


def index_of(path: pathlib.Path) -> int:
    """Returns how many frames a state knows."""
    return int(path.stem[-8:])
