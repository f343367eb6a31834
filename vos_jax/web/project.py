"""One visitor's video: its frames, prompts and masks, and the files to take home."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator

import cv2
import numpy as np

from vos_jax import errors, geometry
from vos_jax.data import media
from vos_jax.data import prompts as prompts_lib
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import objects as objects_lib
from vos_jax.inference import result_store, segment_video, video_results
from vos_jax.typing import Bool, UInt8
from vos_jax.visualize import exports, overlay

MAX_FRAMES = 3000
"""Longer videos are for segment.py, which holds nothing of them."""


class Project:
    """A video in a folder of its own, which `close` removes; a `video.FrameSource`.

    Args:
      engine: the model; projects share its compiled programs.
      video: the file; it is copied.
      root: where the project's folder is made.

    Attributes:
      media: the video.
      name: of the folder of its masks.
      size: (height, width) of its frames in pixels.
      num_frames: how many frames it has.
      prompts: frame -> what the visitor painted, and which objects are absent.
      done: how many frames, from the first, have masks that agree with the prompts.

    Raises:
      VosError: not a video, or one of too many frames.
    """

    def __init__(self, engine: engine_lib.Engine, video: str | os.PathLike, root: str | os.PathLike):
        self._engine = engine
        self._lock = threading.Lock()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="project-", dir=root))
        try:
            path = self.folder / f"video{pathlib.Path(video).suffix.lower()}"
            shutil.copyfile(video, path)
            self.media = media.open_media(path)
            self._engine.views(self.media.size)  # raises if frames are too small
            self.name, self.size, self.num_frames = "masks", self.media.size, self._unpack()
            self._store = result_store.ResultStore(self.folder / "results", {})
            self._results = self._store.video(self, correctable=True)
        except BaseException:
            self.close()
            raise
        self.prompts: dict[int, prompts_lib.Prompt] = {}
        self.done = 0
        self._edits = 0

    def _unpack(self) -> int:
        """Saves every frame as a picture, so that scrubbing does not decode the film from its beginning."""
        (self.folder / "frames").mkdir()
        index = -1
        for index, image in enumerate(self.media.frames()):
            if index >= MAX_FRAMES:
                raise errors.VosError(
                    f"the video has more than {MAX_FRAMES} frames; cut it, or use segment.py, which takes any"
                )
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
            if not cv2.imwrite(str(self._frame_path(index)), image[:, :, ::-1], quality):
                raise errors.VosError(f"frame {index} cannot be kept: the server's disk is full")
        if index < 0:
            raise errors.VosError("the video has no frames")
        return index + 1

    def _frame_path(self, index: int) -> pathlib.Path:
        return self.folder / "frames" / f"{index:05d}.jpg"

    def mask_name(self, index: int) -> str:
        """Returns the file stem of a frame's mask."""
        return f"{index:05d}"

    def frames(self, start: int = 0, *, reverse: bool = False) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yields the frames from `start` to the end, or with `reverse` to the beginning."""
        return map(self.frame, range(start, -1, -1) if reverse else range(start, self.num_frames))

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Reads a frame, RGB; raises VosError where there is none."""
        if not 0 <= index < self.num_frames:
            raise errors.VosError(f"there is no frame {index}: the video has 0 to {self.num_frames - 1}")
        image = cv2.imread(str(self._frame_path(index)))
        if image is None:
            raise errors.VosError(f"frame {index} cannot be read any more; drop the video again")
        return image[:, :, ::-1].copy()

    def ids(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Returns the segmented masks of a frame with the painted ones on top."""
        ids = np.zeros(self.media.size, np.uint8)
        if index < self.done:
            ids = self._results.read(index)
        prompt = self.prompts.get(index, prompts_lib.Prompt())
        ids = np.where(np.isin(ids, list(prompt.absent)), np.uint8(0), ids)
        return ids if prompt.ids is None else geometry.overwrite(ids, prompt.ids)

    def picture(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Draws a frame with its masks."""
        return overlay.overlay(self.frame(index), self.ids(index))

    def paint(self, index: int, object_id: int, mask: Bool[np.ndarray, "H W"]) -> None:
        """Paints an object's mask in a frame; later frames must be segmented again.

        Raises:
          VosError: no such frame, an id that is not in 1 to 254, an empty mask or one of another size.
        """
        _check_id(object_id)
        if mask.shape != self.media.size:
            raise errors.VosError(f"the mask is {mask.shape}, the video {self.media.size} (height, width)")
        if not mask.any():
            raise errors.VosError("nothing is painted yet: paint the object, or click two corners around it")
        self._prompt(index, prompts_lib.Prompt(mask.astype(np.uint8) * np.uint8(object_id)))

    def absent(self, index: int, object_id: int) -> None:
        """Says that an object is not in a frame; later frames must be segmented again.

        Raises:
          VosError: no such frame, or no earlier frame in which the object was painted.
        """
        _check_id(object_id)
        self._prompt(index, prompts_lib.Prompt(absent={object_id}))

    def _prompt(self, index: int, more: prompts_lib.Prompt) -> None:
        self.frame(index)  # raises if there is none
        with self._lock:
            prompt = prompts_lib.edit(self.prompts.get(index, prompts_lib.Prompt()), more, index)
            changed = {**self.prompts, index: prompt}
            objects_lib.check(changed, self._engine)
            self.prompts = changed
            self._edited(index)

    def box(self, index: int, object_id: int, box: prompts_lib.Box) -> None:
        """Paints the object in a box; errors as `paint`, and as `Engine.mask_of_box`."""
        self.paint(index, object_id, self._engine.mask_of_box(self.frame(index), box))

    def forget(self, index: int) -> None:
        """Removes what was painted or said of a frame.

        Raises:
          VosError: a later frame says that an object is absent which would no longer be known.
        """
        with self._lock:
            left = {frame: prompt for frame, prompt in self.prompts.items() if frame != index}
            if left != self.prompts:
                if left:
                    objects_lib.check(left, self._engine)
                self.prompts = left
                self._edited(index)

    def _edited(self, index: int) -> None:
        self._edits += 1
        self.done = min(self.done, index)
        self._results.truncate(self.done)

    def run(self) -> Iterator[int]:
        """Segments the remaining frames and yields the index of each when its mask is written.

        Raises:
          VosError: nothing was painted.
        """
        if not any(prompt.objects for prompt in self.prompts.values()):
            raise errors.VosError("paint at least one object first")
        if self.done == self.num_frames:
            return
        with self._lock:
            edits = self._edits
            segmented = segment_video.segment_video(self._engine, self, self.prompts, self._results)
        # Something is painted meanwhile: the rest is for another run.
        with contextlib.suppress(video_results.Truncated):
            for result in segmented:
                self._results.flush()
                with self._lock:
                    if self._edits != edits:
                        return
                    self.done = max(self.done, result.index + 1)
                yield result.index

    def save_masks(self) -> pathlib.Path:
        """Writes all masks as a zip of indexed PNGs and returns its path; raises VosError where some lack."""
        self._check_done()
        path = self.folder / "masks.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for index in range(self.done):
                archive.write(self._results.path(index), f"masks/{index:05d}.png")
        return path

    def save_overlay(self) -> pathlib.Path:
        """Writes the overlay film with its sound and returns the path; raises VosError where masks lack."""
        self._check_done()
        path = self.folder / exports.EXPORTS["overlay"].path
        path.unlink(missing_ok=True)
        exports.export_video(["overlay"], self.media, self.ids, self.folder, lambda: None)
        return path

    def _check_done(self) -> None:
        if self.done < self.num_frames:
            raise errors.VosError(
                f"{self.done} of {self.num_frames} frames are segmented; press Segment until all are"
            )

    def close(self) -> None:
        """Removes the project's folder."""
        with contextlib.suppress(AttributeError, errors.VosError):  # it is opened last
            self._store.__exit__(None)
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)


def _check_id(object_id: int) -> None:
    if not 1 <= object_id <= prompts_lib.MAX_ID:
        raise errors.VosError(f"object {object_id}: objects are 1 to {prompts_lib.MAX_ID}")
