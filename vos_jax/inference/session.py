"""One video's results folder: whose masks are in it, how far they go, and where to go on."""

import json
import operator
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from vos_jax import errors, files
from vos_jax.data import masks
from vos_jax.inference import record, snapshots, tracker, writer

MASKS = "masks"
STATE = ".state.safetensors"

SAVE_SECONDS = 20.0
"""How much work an interruption may cost, about."""

SAVE_SHARE = 0.02
"""Saving takes at most this share of the time, however large the state is."""


class Session:
    """OUT/run.json, OUT/masks/*.png and, until the last frame is done, the tracker's state.

    Masks are written in order; the state is saved now and then, after the masks before it. So an interrupted
    run goes on from the last state, and its masks are those of an uninterrupted one.

    Args:
      folder: OUT; it exists.
      settings: everything that decides what the masks look like, JSON-able.
      model: its fingerprint (`snapshots.fingerprint`).
      overwrite: what this program wrote there before counts for nothing.

    Raises:
      VosError: OUT holds masks of other settings, or of another program.
    """

    def __init__(
        self, folder: pathlib.Path, settings: Mapping[str, Any], model: str, *, overwrite: bool = False
    ):
        self.folder, self._model = folder, model
        self._settings = json.loads(json.dumps(settings))
        self._saved, self._cost = time.monotonic(), 0.0
        noted = self._read()
        if noted is None and any((folder / MASKS).glob("*.png")):
            raise errors.VosError(
                f"{folder / MASKS} holds PNGs that this program did not write; choose another --out"
            )
        same = noted is not None and noted["settings"] == self._settings
        if noted is not None and not same and not overwrite:
            changed = record.difference(noted["settings"], self._settings)
            raise errors.VosError(
                f"{folder} was made with other settings ({changed}); choose another --out, or --overwrite to "
                "replace it"
            )
        self._resumable = same and not overwrite
        self._done = noted["frames"] if noted is not None and self._resumable else None

    def num_finished(self, frame_name: Callable[[int], str], size: tuple[int, int]) -> int | None:
        """How many masks the video has if all of them are there, else None."""
        if self._done is None or not self._are_whole(self._done, frame_name, size):
            return None
        files.remove(self.folder / STATE)  # a run that was killed at its very end leaves it
        return self._done

    def resume(
        self, tracker_: tracker.Tracker, frame_name: Callable[[int], str], size: tuple[int, int]
    ) -> tracker.Track | None:
        """The track where an interrupted run left it, or None where there is nothing to go on from."""
        path = self.folder / STATE
        if not self._resumable or not path.is_file():
            return None
        try:
            track = snapshots.load(path, tracker_, self._model)
        except errors.VosError:
            return None  # damaged by whatever interrupted the run: from the beginning, then
        whole = track.size == tuple(size) and self._are_whole(track.index, frame_name, size)
        return track if whole else None

    def begin(self, start: int, frame_name: Callable[[int], str], outdated: list[pathlib.Path]) -> None:
        """Notes that masks from frame `start` on are in the making; removes those of a former run, and
        `outdated` products made from them."""
        files.check_inside(self.folder / MASKS, self.folder)
        kept = {f"{frame_name(index)}.png" for index in range(start)}
        try:
            for path in (self.folder / MASKS).glob("*.png"):
                if path.name not in kept:
                    path.unlink()
            if start == 0:
                (self.folder / STATE).unlink(missing_ok=True)
            for path in outdated:
                for file in sorted(path.glob("*.png")) if path.is_dir() else [path]:
                    file.unlink(missing_ok=True)
        except OSError as error:
            raise errors.VosError(f"{self.folder}: cannot write: {error.strerror or error}") from error
        self._note(None)
        self._saved = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time to save the state."""
        return time.monotonic() - self._saved >= max(SAVE_SECONDS, self._cost / SAVE_SHARE)

    def save(self, track: tracker.Track) -> None:
        """Saves the state; every mask before it must be on disk."""
        start = time.monotonic()
        snapshots.save(self.folder / STATE, track.snapshot(), self._model)
        self._saved = time.monotonic()
        self._cost = self._saved - start

    def finish(self, frames: int) -> None:
        """Notes that all masks are there."""
        self._note(frames)
        (self.folder / STATE).unlink(missing_ok=True)

    def _note(self, frames: int | None) -> None:
        files.write_json(self.folder / record.NAME, {"settings": self._settings, "frames": frames})

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / record.NAME
        if not path.exists():
            return None
        try:
            noted = files.read_json(path)
            frames = noted["frames"]
            return {
                "settings": dict(noted["settings"]),
                "frames": None if frames is None else operator.index(frames),
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise errors.VosError(
                f"{path} is not a record of segment.py ({error}); choose another --out"
            ) from error

    def _are_whole(self, count: int, frame_name: Callable[[int], str], size: tuple[int, int]) -> bool:
        try:
            return all(
                masks.png_size(writer.mask_path(self.folder, MASKS, frame_name(index))) == tuple(size)
                for index in range(count)
            )
        except (errors.VosError, IndexError):
            return False
