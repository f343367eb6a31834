"""The results of one video: its masks, the state it resumes from, and its summary."""

import dataclasses
import operator
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from vos_jax import errors, files, output_folder
from vos_jax.data import mask_files
from vos_jax.data import video as video_lib
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import mask_writer, probabilities, session_file, state_files
from vos_jax.inference import session as session_lib
from vos_jax.inference.frame_result import FrameResult
from vos_jax.typing import UInt8

ALL_FRAMES = sys.maxsize
"""`VideoResults.agreed` of results whose settings have not changed."""

KINDS = ("compile", "adaptation", "inference", "other")


@dataclasses.dataclass(frozen=True)
class VideoSummary:
    """The summary of a finished video, kept beside its masks.

    Attributes:
      frames: number of frames.
      seconds: wall time by kind, over all runs: "compile"; "adaptation" to the video; "inference", calling
        the compiled step and waiting for its results; "other", the work on the CPU around it and the wait for
        files, which threads of their own read and write.
      presence: object id -> the model's confidence that the object is visible, in [0, 1], a value per written
        frame in order; None in a frame where the object is not known.
    """

    frames: int
    seconds: Mapping[str, float]
    presence: Mapping[int, list[float | None]]

    @property
    def working_seconds(self) -> float:
        """Wall time without compilation."""
        return _working_seconds(self.seconds)

    def to_json(self) -> dict[str, Any]:
        """Returns what `of_json` reads."""
        presence = {str(object_id): values for object_id, values in self.presence.items()}
        return {"frames": self.frames, "seconds": dict(self.seconds), "presence": presence}

    @classmethod
    def of_json(cls, content: Any) -> "VideoSummary":
        """Reads a summary; raises ValueError, KeyError, TypeError or AttributeError for anything else."""
        presence = {
            int(object_id): [None if value is None else float(value) for value in values]
            for object_id, values in content["presence"].items()
        }
        seconds = {str(kind): float(value) for kind, value in content["seconds"].items()}
        return cls(operator.index(content["frames"]), seconds, presence)


def _no_seconds() -> dict[str, float]:
    return dict.fromkeys(KINDS, 0.0)


def _working_seconds(seconds: Mapping[str, float]) -> float:
    return sum(value for kind, value in seconds.items() if kind != "compile")


class Truncated(Exception):
    """The prompts of a video have changed while it was being segmented; start again."""


class VideoResults:
    """Writes and reads the results of one video; `ResultStore.video` makes it.

    Masks are written in any order by one thread. While a session runs forward, `save` keeps its state now and
    then, after the masks before it; so an interrupted run goes on from the last state, and its results are
    those of an uninterrupted one. Correctable results keep states of earlier frames, too, so a run whose
    prompts changed goes on from before the change. One thread may `truncate` while another one writes.

    Attributes:
      agreed: number of frames, from the first, that no change of the settings concerns: 0, or `ALL_FRAMES`,
        or all before the first prompt that changed. Masks of other frames are made anew.
      correctable: whether states stay when the video is finished.
      summary: of the finished video; None where it is not finished, or is to be segmented anew.
      seconds: wall time by kind spent on the video so far; `segment_video` adds to it.
      frames: number of frames segmented so far.
      soft: whether probabilities are written, too.
    """

    def __init__(
        self,
        output: output_folder.OutputFolder,
        masks_out: mask_writer.MaskWriter,
        note: Callable[[VideoSummary | None], None],
        *,
        name: str,
        source: video_lib.FrameSource,
        correctable: bool,
        soft: bool,
        intermediates: tuple[str, ...],
        exports: tuple[str, ...],
        agreed: int,
        summary: VideoSummary | None,
    ):
        self.name, self.size, self.summary = name, (source.size[0], source.size[1]), summary
        self.soft, self._intermediates, self._exports = soft, intermediates, exports
        self.seconds = _no_seconds()
        self.frames = 0
        self._output, self._writer, self._note = output, masks_out, note
        self._source, self.correctable, self.agreed = source, correctable, agreed
        most = state_files.MAX_STATES if correctable else 1
        self._states = state_files.StateFiles(output, name, most=most)
        self._present: dict[int, dict[int, float]] = {}
        self._mutex, self._truncated = threading.RLock(), False

    @property
    def fps(self) -> float:
        """Frames per second so far, compilation apart."""
        return self.frames / max(_working_seconds(self.seconds), 1e-9)

    # ---------------------------------------------------------------- what is there

    def finished(self) -> bool:
        """Returns whether the video has a summary and all of its masks; removes states that are left."""
        if self.summary is None or not self._are_whole(self.summary.frames):
            return False
        if not self.correctable:  # a run that was killed at its very end leaves one
            self._states.forget()
        return True

    def resume(self, engine: engine_lib.Engine) -> session_lib.Session | None:
        """Returns the session of the newest state that agrees with the settings; None if there is none."""
        for path in reversed(self._states.paths()):
            if state_files.index_of(path) > self.agreed:
                continue
            try:
                session = session_file.load(path, engine)
                seconds, present = _read_note(session_file.read_note(path))
            except (errors.VosError, ValueError, KeyError, TypeError, AttributeError):
                continue  # damaged by the interruption
            named = session.index == state_files.index_of(path)
            if named and session.size == self.size and self._are_whole(session.index):
                self.seconds, self._present = _no_seconds() | seconds, present
                self.frames = session.index
                return session
        return None

    def read(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Reads the mask of a frame; raises VosError if it is missing or broken."""
        return mask_files.read_mask(self.path(index), self.size)

    def path(self, index: int) -> pathlib.Path:
        """Returns the path of a frame's mask."""
        name = self._source.mask_name(index)
        assert name is not None  # its mask is a result
        return mask_writer.mask_path(self._output.path, self.name, name)

    # ---------------------------------------------------------------- what changes it

    def begin(self, start: int) -> None:
        """Starts writing at frame `start`: removes masks of other settings, and exports of earlier masks.

        Only files as this program wrote them are removed. A mask of the user's in the way is an error if
        masks of other settings are replaced; else it stays, and is named in `OutputFolder.kept`.

        Args:
          start: 0, or the next frame of a resumed session.

        Raises:
          VosError: a file of the user's is in the way, or a file cannot be removed.
        """
        out = self._output
        files.check_inside(out.path / self.name, out.path)
        self._writer.flush()
        for index in range(self.agreed, self._source.num_frames or 0):
            if self._source.mask_name(index) is not None:
                out.check(self.path(index))
        agreeing = None if self.agreed == ALL_FRAMES else self._mask_names(self.agreed)
        try:
            for path in self._outdated(agreeing):
                out.remove(path)
            # Before the new settings are noted, after which they would pass for states of these.
            self._states.forget(start)
            for path in self._states.paths(start):
                out.check(path)
        except OSError as error:
            raise errors.VosError(f"{out.path}: cannot write: {error.strerror or error}") from error
        if start == 0:
            self._present, self.seconds, self.frames = {}, _no_seconds(), 0
        out.keep(self.name, lambda path: self._is_mask(path) and (agreeing is None or path.stem in agreeing))
        with self._mutex:
            self._note(None)
            self.summary, self.agreed, self._truncated = None, ALL_FRAMES, False
        self._states.begin(_working_seconds(self.seconds))

    def _outdated(self, agreeing: AbstractSet[str] | None) -> Iterator[pathlib.Path]:
        """Yields the files of earlier runs that this run makes anew.

        Args:
          agreeing: names of the masks that agree with the settings; None: all do.
        """
        recorded = self._output.recorded
        if agreeing is not None:
            found = recorded(self.name)
            for below in (probabilities.FOLDER, mask_writer.INTERMEDIATES):
                found += [path for path in recorded(below) if path.parent.name == self.name]
            yield from (path for path in found if path.stem not in agreeing)
        for export in self._exports:
            yield from recorded(export)

    def write(self, result: FrameResult) -> None:
        """Queues the results of a frame; does nothing for a frame whose mask is not a result.

        Args:
          result: it must not change afterwards.

        Raises:
          Truncated: the video was truncated since `begin`.
          VosError: an earlier write failed.
        """
        with self._mutex:
            self._check_truncated()
            self.frames += 1
            name = self._source.mask_name(result.index)
            if name is None:
                return
            self._present[result.index] = {o: round(value, 4) for o, value in result.presence.items()}
            self._writer.write(self.name, name, result.ids)
            for intermediate, ids in result.intermediates.items():
                self._writer.write_intermediate(intermediate, self.name, name, ids)
            if self.soft:
                self._writer.write_probabilities(self.name, name, probabilities.of_result(result))

    def _check_truncated(self) -> None:
        if self._truncated:
            raise Truncated

    def flush(self) -> None:
        """Returns when everything queued is on disk; raises VosError if a write failed."""
        self._writer.flush()

    def is_due(self) -> bool:
        """Returns whether the state after the frames written so far is to be saved."""
        return self._states.is_due(_working_seconds(self.seconds))

    def save(self, session: session_lib.Session) -> None:
        """Saves the state of a forward session if that is due, after the masks before it.

        Args:
          session: all of its frames so far were given to `write`.

        Raises:
          Truncated: the video was truncated since `begin`.
          VosError: a mask or the state cannot be written.
        """
        if not self.is_due():
            return
        seconds = _working_seconds(self.seconds)
        self.flush()
        with self._mutex:
            self._check_truncated()
            self._states.save(session, {"seconds": self.seconds, "presence": self._present}, seconds)

    def truncate(self, index: int) -> None:
        """Forgets the states that know frames from `index` on, because their prompts have changed.

        A run that is writing ends with `Truncated`.
        """
        with self._mutex:
            self._truncated = True
            self._states.forget(index)
            if self.summary is not None:
                self.summary = None
                self._note(None)

    def finish(self) -> VideoSummary:
        """Notes that all masks are there, and removes the states unless the results are correctable.

        Raises:
          Truncated: the video was truncated since `begin`.
          VosError: a write failed.
        """
        self.flush()
        with self._mutex:
            self._check_truncated()
            return self._finish()

    def _finish(self) -> VideoSummary:
        objects = sorted({object_id for frame in self._present.values() for object_id in frame})
        in_order = sorted(self._present)
        presence = {o: [self._present[index].get(o) for index in in_order] for o in objects}
        self.summary = VideoSummary(self.frames, dict(self.seconds), presence)
        self._note(self.summary)
        if not self.correctable:
            self._states.forget()
        return self.summary

    # ---------------------------------------------------------------- files

    def _are_whole(self, count: int) -> bool:
        """Returns whether the first `count` frames have their masks."""
        out = self._output.path
        try:
            names = [name for name in map(self._source.mask_name, range(count)) if name is not None]
        except IndexError:
            return False
        return all(
            self._is_mask(mask_writer.mask_path(out, self.name, name))
            and (not self.soft or probabilities.path_of(out, self.name, name).is_file())
            and all(
                mask_writer.mask_path(out / mask_writer.INTERMEDIATES / each, self.name, name).is_file()
                for each in self._intermediates
            )
            for name in names
        )

    def _is_mask(self, path: pathlib.Path) -> bool:
        try:
            return mask_files.png_size(path) == self.size
        except errors.VosError:
            return False

    def _mask_names(self, count: int) -> set[str]:
        """Returns the file stems of the masks of the first `count` frames, or of all frames."""
        names: set[str] = set()
        for index in range(count):
            try:
                name = self._source.mask_name(index)
            except IndexError:
                break
            names |= set() if name is None else {name}
        return names


def _read_note(note: Mapping[str, Any]) -> tuple[dict[str, float], dict[int, dict[int, float]]]:
    """Returns the seconds and the presence that were saved with a state."""
    present = {
        int(index): {int(o): float(value) for o, value in frame.items()}
        for index, frame in note["presence"].items()
    }
    return {str(kind): float(value) for kind, value in note["seconds"].items()}, present
