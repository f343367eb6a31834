"""Writes result masks in a background thread."""

import os
import pathlib
import queue
import shutil
import threading
import time

import numpy as np

from vos_jax import errors, files
from vos_jax.data import mask_files
from vos_jax.inference import probabilities
from vos_jax.typing import UInt8

INTERMEDIATES = "intermediates"
"""The folder of the masks before the final ones: OUT/intermediates/NAME/SEQUENCE/FRAME.png."""


def mask_path(out_dir: str | os.PathLike, sequence: str, frame_name: str) -> pathlib.Path:
    """Returns OUT/SEQUENCE/FRAME.png; VosError for names that would leave `out_dir`."""
    return (
        pathlib.Path(out_dir)
        / files.safe_name(sequence)
        / f"{files.safe_name(frame_name, f'{sequence}: frame')}.png"
    )


class MaskWriter:
    """Writes masks as OUT/SEQUENCE/FRAME.png in a thread; a context manager.

    A failed write (disk full, folder gone) is raised by the next `write`, `flush` or `close` as a VosError
    naming the file; what is queued behind it is dropped, so that the run stops at a clean prefix.

    Args:
      out_dir: the results folder, made if needed.
      queue_size: masks waiting at most; `write` blocks beyond.

    Attributes:
      seconds: time the thread has spent encoding and writing.

    Raises:
      VosError: `out_dir` is not writable.
    """

    def __init__(self, out_dir: str | os.PathLike, *, queue_size: int = 8):
        files.check_writable(out_dir)
        self.out_dir = pathlib.Path(out_dir)
        self.seconds = 0.0
        self._queue: queue.Queue = queue.Queue(queue_size)
        self._error: errors.VosError | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="vos-mask-writer", daemon=True)
        self._thread.start()

    def write(self, sequence: str, frame_name: str, ids: UInt8[np.ndarray, "H W"]) -> None:
        """Queues one mask of the input's own size; the caller must not change `ids` afterwards."""
        self._put(mask_path(self.out_dir, sequence, frame_name), ids)

    def write_intermediate(
        self, name: str, sequence: str, frame_name: str, ids: UInt8[np.ndarray, "H W"]
    ) -> None:
        """Queues one mask before the final one, for OUT/intermediates/NAME/SEQUENCE/FRAME.png."""
        self._put(mask_path(self.out_dir / INTERMEDIATES / name, sequence, frame_name), ids)

    def write_probabilities(self, sequence: str, frame_name: str, soft: probabilities.SoftMasks) -> None:
        """Queues one frame's probabilities, for OUT/probabilities/SEQUENCE/FRAME.npz."""
        self._put(probabilities.path_of(self.out_dir, sequence, frame_name), soft)

    def flush(self) -> None:
        """Returns when everything queued is on disk; raises what went wrong."""
        self._queue.join()
        self._raise()

    def close(self) -> None:
        """Flushes and ends the thread; safe to call twice."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()
        self._raise()

    def __enter__(self) -> "MaskWriter":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.close()
        except errors.VosError:
            # An error that is already on its way says more than what followed from it.
            if kind is None:
                raise

    def _put(self, path: pathlib.Path, content: np.ndarray | probabilities.SoftMasks) -> None:
        if self._closed:
            raise RuntimeError("MaskWriter is closed")
        self._raise()
        self._queue.put((path, content))

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                start = time.perf_counter()
                self._error = _write(self.out_dir, *item)
                self.seconds += time.perf_counter() - start
            self._queue.task_done()
        self._queue.task_done()


def _write(
    out_dir: pathlib.Path, path: pathlib.Path, content: np.ndarray | probabilities.SoftMasks
) -> errors.VosError | None:
    try:
        files.check_inside(path.parent, out_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, probabilities.SoftMasks):
            probabilities.write(path, content)
        else:
            mask_files.write_mask(path, content)
    except errors.VosError as error:
        return error
    except OSError as error:
        return _unwritable(path, error)
    except Exception as error:  # a mask of a wrong type is a bug, but must not hang the queue
        return errors.VosError(f"{path}: cannot write the mask: {error}")
    return None


def _unwritable(path: pathlib.Path, error: OSError) -> errors.VosError:
    try:
        free = f" ({shutil.disk_usage(path.parent).free / 2**20:.0f} MiB free)"
    except OSError:
        free = ""
    return errors.VosError(
        f"{path}: cannot write: {error.strerror or error}{free}; "
        "type the same command again once it is solved, what is finished is kept"
    )
