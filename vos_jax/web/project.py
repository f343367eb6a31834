"""One visitor's video: what was painted in it, what was segmented, and the files to take home."""

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
from vos_jax.inference import result_store
from vos_jax.inference import session as session_lib
from vos_jax.typing import Bool, UInt8
from vos_jax.visualize import exports, overlay

MAX_FRAMES = 3000
"""Longer videos are for segment.py, which holds nothing of them."""

# A state is kept every so many frames: a correction costs no more than these again.
SNAPSHOT_EVERY = 20


class Project:
    """A video in a folder of its own, which `close` removes.

    Args:
      engine: the model; projects share its compiled programs.
      video: the file; it is copied.
      root: where the project's folder is made.

    Attributes:
      media: the video.
      num_frames: how many frames it has.
      prompts: frame -> ids uint8 [H, W] that the visitor painted; 0 elsewhere.
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
            self.num_frames = self._unpack()
            self._store = result_store.ResultStore(self.folder / "results", {})
            self._results = self._store.video(
                "masks", self.media.size, "{:05d}".format, num_frames=self.num_frames, keep_all_states=True
            )
        except BaseException:
            self.close()
            raise
        self.prompts: dict[int, np.ndarray] = {}
        self.done = 0
        self._edits = 0
        self._begun = False

    def _unpack(self) -> int:
        """Keeps every frame as a picture: scrubbing must not decode the film from its beginning."""
        (self.folder / "frames").mkdir()
        index = -1
        for index, frame in enumerate(self.media.frames()):
            if index >= MAX_FRAMES:
                raise errors.VosError(
                    f"the video has more than {MAX_FRAMES} frames; cut it, or use segment.py, which takes any"
                )
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
            if not cv2.imwrite(str(self._frame_path(index)), frame.image[:, :, ::-1], quality):
                raise errors.VosError(f"frame {index} cannot be kept: the server's disk is full")
        if index < 0:
            raise errors.VosError("the video has no frames")
        return index + 1

    def _frame_path(self, index: int) -> pathlib.Path:
        return self.folder / "frames" / f"{index:05d}.jpg"

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Reads a frame, RGB; raises VosError where there is none."""
        if not 0 <= index < self.num_frames:
            raise errors.VosError(f"there is no frame {index}: the video has 0 to {self.num_frames - 1}")
        image = cv2.imread(str(self._frame_path(index)))
        if image is None:
            raise errors.VosError(f"frame {index} cannot be read any more; drop the video again")
        return image[:, :, ::-1].copy()

    def ids(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Returns the masks of a frame as they stand: segmented, with what was painted since on top."""
        ids = np.zeros(self.media.size, np.uint8)
        if index < self.done:
            ids = self._results.read(index)
        painted = self.prompts.get(index)
        if painted is not None:
            ids = geometry.overwrite(ids, painted)
        return ids

    def picture(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Draws a frame with its masks."""
        return overlay.overlay(self.frame(index), self.ids(index))

    def paint(self, index: int, object_id: int, mask: Bool[np.ndarray, "H W"]) -> None:
        """Says where an object is in a frame; later frames must be segmented again.

        Raises:
          VosError: no such frame, an id that is not in 1 to 254, an empty mask or one of another size.
        """
        self.frame(index)
        if not 1 <= object_id <= prompts_lib.MAX_ID:
            raise errors.VosError(f"object {object_id}: objects are 1 to {prompts_lib.MAX_ID}")
        if mask.shape != self.media.size:
            raise errors.VosError(f"the mask is {mask.shape}, the video {self.media.size} (height, width)")
        if not mask.any():
            raise errors.VosError("nothing is painted yet: paint the object, or click two corners around it")
        with self._lock:
            painted = self.prompts.get(index, np.zeros(self.media.size, np.uint8))
            ids = mask.astype(np.uint8) * np.uint8(object_id)
            changed = {**self.prompts, index: geometry.overwrite(painted, ids)}
            objects_lib.check(prompts_lib.as_prompts(changed), self._engine)
            self.prompts = changed
            self._edited(index)

    def forget(self, index: int) -> None:
        """Takes back what was painted in a frame."""
        with self._lock:
            if self.prompts.pop(index, None) is not None:
                self._edited(index)

    def _edited(self, index: int) -> None:
        self._edits += 1
        self.done = min(self.done, index)
        self._results.truncate(self.done)

    def run(self) -> Iterator[int]:
        """Segments what is not done and yields each frame's index when its mask is there.

        Raises:
          VosError: nothing was painted.
        """
        if not any(ids.any() for ids in self.prompts.values()):
            raise errors.VosError("paint at least one object first")
        if self.done == self.num_frames:
            return
        edits = self._edits
        session = self._results.resume(self._engine)
        if session is None:
            session = session_lib.Session(self._engine, self.media.size, self.prompts)
        if not self._begun:  # later, masks that are shown must not go away for a while
            self._results.begin(0)
            self._begun = True
        while (index := session.index) < self.num_frames:
            if index % SNAPSHOT_EVERY == 0 and index > 0:
                with self._lock:
                    if self._edits == edits:
                        self._results.save(session, force=True)
            result = session.step(self.frame(index), self.prompts.get(index))
            with self._lock:
                if self._edits != edits:
                    return  # something was painted meanwhile: what follows is for another run
                self._results.write(index, result)
                self._results.flush()
                self.done = max(self.done, index + 1)
            yield index
        with self._lock:
            if self._edits == edits:
                self._results.finish(self.num_frames, {})

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
        path = self.folder / "overlay.mp4"
        path.unlink(missing_ok=True)
        names = {self.media.frame_name(index): index for index in range(self.num_frames)}
        exports.make(
            [lambda video: exports.Overlay(path, self.media, video.audio)],
            self.media,
            lambda name: self.ids(names[name]),
            lambda: None,
        )
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
