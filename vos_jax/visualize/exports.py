"""Exports of a segmented video: overlay, cut-out, run-length code. Exporters take one frame at a time."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TextIO

import av
import av.error
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from vos_jax import errors, files
from vos_jax.data import mask_files
from vos_jax.data import media as media_lib
from vos_jax.typing import UInt8
from vos_jax.visualize import overlay, video_writer


class Exporter(Protocol):
    """Writes a file or folder, which is complete after `__exit__` and removed after an error."""

    path: pathlib.Path

    def __enter__(self) -> "Exporter": ...

    def __exit__(self, *error) -> None: ...

    def add(self, name: str, frame: media_lib.Frame, ids: UInt8[np.ndarray, "H W"]) -> None: ...

    def add_sound(self, packet: av.Packet) -> None: ...


class Overlay:
    """Exports an mp4 of the frames with tinted objects, with the video's times and sound."""

    def __init__(self, path: pathlib.Path, media: media_lib.Media, reader: media_lib.Reader):
        self.path = path
        self._writer = video_writer.VideoWriter(
            path,
            rate=media.rate,
            time_base=media.time_base,
            aspect=media.aspect,
            audio=reader.audio,
            size=media.size,
        )

    def __enter__(self) -> "Overlay":
        return self

    def __exit__(self, *error) -> None:
        self._writer.__exit__(*error)

    def add(self, name: str, frame: media_lib.Frame, ids: UInt8[np.ndarray, "H W"]) -> None:
        """Draws one frame."""
        self._writer.write(overlay.overlay(frame.image, ids), frame.time)

    def add_sound(self, packet: av.Packet) -> None:
        """Adds the sound."""
        self._writer.add_sound(packet)


class CutoutVideo:
    """Exports a webm (VP9) of the objects; everything else is transparent."""

    def __init__(self, path: pathlib.Path, media: media_lib.Media, reader: media_lib.Reader):
        self.path = path
        self._writer = video_writer.VideoWriter(
            path, rate=media.rate, time_base=media.time_base, aspect=media.aspect
        )

    def __enter__(self) -> "CutoutVideo":
        return self

    def __exit__(self, *error) -> None:
        self._writer.__exit__(*error)

    def add(self, name: str, frame: media_lib.Frame, ids: UInt8[np.ndarray, "H W"]) -> None:
        """Cuts out one frame."""
        self._writer.write(cut_out(frame.image, ids), frame.time)

    def add_sound(self, packet: av.Packet) -> None:
        """Ignores the sound."""


class CutoutImages:
    """Exports RGBA PNGs of the objects to a folder; keeps those of an interrupted run."""

    def __init__(self, path: pathlib.Path, media: media_lib.Media, reader: media_lib.Reader):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "CutoutImages":
        return self

    def __exit__(self, *error) -> None:
        pass

    def add(self, name: str, frame: media_lib.Frame, ids: UInt8[np.ndarray, "H W"]) -> None:
        """Cuts out one frame."""
        path = self.path / f"{name}.png"
        with contextlib.suppress(errors.VosError):
            if mask_files.png_size(path) == ids.shape:
                return
        with files.atomic(path, durable=False) as temporary:
            Image.fromarray(cut_out(frame.image, ids)).save(temporary, "PNG", compress_level=1)

    def add_sound(self, packet: av.Packet) -> None:
        """Ignores the sound."""


class RunLengths:
    """Exports a JSON file in the layout of COCO annotations, with compressed run-length codes.

    `images` are the frames (with their times in seconds); an annotation's `category_id` is the object's id.
    `pycocotools.coco.COCO` can read it. It is written line by line, so memory does not grow with the video.
    """

    def __init__(self, path: pathlib.Path, media: media_lib.Media, reader: media_lib.Reader):
        self.path = path
        self._size = media.size
        self._temporary = files.temporary_name(path)
        self._images = files.temporary_name(path.with_suffix(".images"))
        self._out: TextIO = self._temporary.open("w")
        self._frames: TextIO = self._images.open("w+")
        info = {"description": f"object masks of {media.name} by vos_jax", "video": media.name}
        self._out.write(f'{{"info": {json.dumps(info)},\n"annotations": [')
        self._count, self._objects, self._index = 0, set(), 0

    def __enter__(self) -> "RunLengths":
        return self

    def __exit__(self, *error) -> None:
        try:
            if error[0] is None:
                self._finish()
        finally:
            for file, path in ((self._out, self._temporary), (self._frames, self._images)):
                try:
                    file.close()
                except OSError:
                    pass  # a full disk; the file is removed below
                files.remove(path)

    def add(self, name: str, frame: media_lib.Frame, ids: UInt8[np.ndarray, "H W"]) -> None:
        """Encodes one frame."""
        height, width = self._size
        image = {"id": self._index, "file_name": name, "width": width, "height": height}
        image["time"] = round(float(frame.time), 6)
        self._frames.write(("," if self._index else "") + "\n" + json.dumps(image))
        for object_id in np.unique(ids).tolist():
            if object_id == 0:
                continue
            code: Any = coco_mask.encode(np.asfortranarray(ids == object_id, np.uint8))
            annotation = {
                "id": self._count + 1,
                "image_id": self._index,
                "category_id": object_id,
                "iscrowd": 0,
                "area": int(coco_mask.area(code)),
                "bbox": coco_mask.toBbox(code).tolist(),
                "segmentation": {"size": [height, width], "counts": code["counts"].decode("ascii")},
            }
            self._out.write(("," if self._count else "") + "\n" + json.dumps(annotation))
            self._count += 1
            self._objects.add(object_id)
        self._index += 1

    def add_sound(self, packet: av.Packet) -> None:
        """Ignores the sound."""

    def _finish(self) -> None:
        self._out.write('\n],\n"images": [')
        self._frames.seek(0)
        while piece := self._frames.read(2**20):
            self._out.write(piece)
        categories = [{"id": object_id, "name": f"object {object_id}"} for object_id in sorted(self._objects)]
        self._out.write(f'\n],\n"categories": {json.dumps(categories)}}}\n')
        self._out.close()
        files.commit(self._temporary, self.path)


def cut_out(image: UInt8[np.ndarray, "H W 3"], ids: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 4"]:
    """Returns the frame as RGBA, transparent (and black, which compresses well) outside of objects."""
    alpha = np.where(ids > 0, np.uint8(255), np.uint8(0))
    return np.dstack([np.where(alpha[..., None] > 0, image, np.uint8(0)), alpha])


@dataclasses.dataclass(frozen=True)
class Export:
    """An export format.

    Attributes:
      path: of its file or folder, relative to the results folder.
      make: a function (path, media, open reader) -> exporter.
      is_folder: whether it is a folder with a PNG per frame, named as the frame's mask.
    """

    path: str
    make: Callable[[pathlib.Path, media_lib.Media, media_lib.Reader], Exporter]
    is_folder: bool = False

    def check_codec(self) -> None:
        """Raises VosError if this installation cannot write the export's video."""
        if self.path.endswith((".mp4", ".webm")):
            video_writer.check_codec(pathlib.Path(self.path).suffix)


EXPORTS: dict[str, Export] = {
    "overlay": Export("overlay.mp4", Overlay),
    "cutout_webm": Export("cutout.webm", CutoutVideo),
    "cutout_png": Export("cutout", CutoutImages, is_folder=True),
    "coco": Export("masks.json", RunLengths),
}
"""The export formats by name."""


def export_video(
    names: Sequence[str],
    media: media_lib.Media,
    mask_of: Callable[[int], np.ndarray],
    folder: pathlib.Path,
    advance: Callable[[], None],
) -> None:
    """Exports a segmented video in several formats, in one pass over its frames.

    Args:
      names: of `EXPORTS`.
      media: the video.
      mask_of: returns the ids of a frame.
      folder: of the exports.
      advance: called after every frame.

    Raises:
      VosError: a mask or frame is damaged, or an export cannot be written; no partial file is left.
    """
    failed: list[tuple[pathlib.Path, Exception]] = []
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(media.open())
        running: list[tuple[Exporter, contextlib.ExitStack]] = []
        # A callback, so that exports are closed before the video is.
        stack.push(lambda *error: _end(running, failed, *error))

        def each(act: Callable[[Exporter], None]) -> None:
            """Calls `act` for every exporter; one that fails does not cost the others."""
            for entry in list(running):
                try:
                    act(entry[0])
                except (OSError, av.error.FFmpegError) as error:
                    running.remove(entry)
                    failed.append((entry[0].path, error))
                    entry[1].__exit__(type(error), error, error.__traceback__)

        for export in map(EXPORTS.__getitem__, names):
            path = folder / export.path
            try:
                own = contextlib.ExitStack()
                running.append((own.enter_context(export.make(path, media, reader)), own))
            except (OSError, av.error.FFmpegError) as error:
                failed.append((path, error))
        index = 0
        for item in reader if running else ():
            if isinstance(item, av.Packet):
                each(lambda exporter, packet=item: exporter.add_sound(packet))
                continue
            ids = mask_of(index)
            name = media.mask_name(index)
            each(lambda exporter, frame=item, ids=ids, name=name: exporter.add(name, frame, ids))
            index += 1
            advance()
    if failed:
        error = failed[0][1]
        where = ", ".join(str(path) for path, _ in failed)
        raise errors.VosError(
            f"{where}: cannot write: {getattr(error, 'strerror', None) or error}; the masks are kept: solve "
            "the problem, then run the same command again"
        ) from error


def _end(
    running: list[tuple[Exporter, contextlib.ExitStack]],
    failed: list[tuple[pathlib.Path, Exception]],
    *error: Any,
) -> None:
    """Completes exports, or removes them after an error."""
    for exporter, own in running:
        try:
            own.__exit__(*error)
        except (OSError, av.error.FFmpegError) as problem:
            failed.append((exporter.path, problem))
