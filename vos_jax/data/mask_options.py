"""Masks of the command line: `first.png`, `120:second.png`, `120:dog.png@2`, a folder of masks.

A black `120:black.png@2` says that object 2 is not in frame 120. A black mask in a folder says nothing: tools
also write one for each frame that nobody labelled.
"""

import dataclasses
import fractions
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from vos_jax import errors, files, geometry
from vos_jax.data import mask_colours, mask_files, overlaps
from vos_jax.data import prompts as prompts_lib
from vos_jax.typing import Bool, UInt8

# A mask whose sides' ratio differs by more is of another picture, or of a turned one.
MAX_STRETCH = 1.05


@dataclasses.dataclass(frozen=True)
class MaskOption:
    """One `--masks` argument.

    Attributes:
      frame: index of its frame, from 0.
      path: the PNG; before `expand` also a folder of PNGs that are named like their frames.
      object_id: every pixel that is not background is this object, which is absent if there is none; None:
        the ids are in the file.
      from_folder: the file may show no object.
    """

    frame: int
    path: pathlib.Path
    object_id: int | None = None
    from_folder: bool = False

    def __str__(self) -> str:
        return f"--masks {self.frame}:{self.path}"


def parse(text: str) -> MaskOption:
    """Reads [FRAME:]FILE[@ID] or FOLDER[@ID]; a file that really has such a name is taken as it is."""
    if _exists(pathlib.Path(text)):
        return MaskOption(0, pathlib.Path(text))
    parts = re.fullmatch(r"(?:(\d+):)?(.+)", text, re.DOTALL)  # None: the text is empty
    frame, name = parts.groups() if parts else (None, "")
    path, object_id = pathlib.Path(name), None
    if not _exists(path) and (found := re.fullmatch(r"(.+)@(\d+)", str(path), re.DOTALL)):
        path, object_id = pathlib.Path(found[1]), int(found[2])
        if not 1 <= object_id < mask_files.VOID:
            raise errors.VosError(f"--masks {text}: object ids are 1 to {mask_files.VOID - 1}")
    if not name or not _exists(path):
        raise errors.VosError(f"--masks {text}: no such file: {path} (it is written [FRAME:]FILE.png[@ID])")
    if frame is not None and path.is_dir():
        raise errors.VosError(
            f"--masks {text}: {path} is a folder, whose masks are of the frames that they are named like; "
            f"write --masks {path}, or name a file in it"
        )
    return MaskOption(int(frame or 0), path, object_id)


def _exists(path: pathlib.Path) -> bool:
    try:
        return path.is_file() or (path.is_dir() and str(path) != ".")
    except OSError:  # a name that is too long
        return False


def expand(options: Iterable[MaskOption], find_frame: Callable[[str], int | None]) -> list[MaskOption]:
    """Returns the options with the PNGs of a folder in its place.

    Args:
      options: as `parse` returns them.
      find_frame: returns the frame index of a file's stem; None: no frame is named like that.

    Raises:
      VosError: a folder without PNGs, or a PNG that is named like no frame.
    """
    found = []
    for option in options:
        if not option.path.is_dir():
            found.append(option)
            continue
        paths = [path for path in files.list_files(option.path) if path.suffix.lower() == ".png"]
        if not paths:
            raise errors.VosError(f"--masks {option.path}: the folder holds no PNG")
        for path in paths:
            if (frame := find_frame(path.stem)) is None:
                raise errors.VosError(
                    f"--masks {option.path}: no frame is named like {path.name}; name masks like their "
                    f"frames, or give them one by one: --masks FRAME:{path}"
                )
            found.append(MaskOption(frame, path, option.object_id, from_folder=True))
    return found


def read(
    options: Iterable[MaskOption],
    size: tuple[int, int],
    *,
    resize: bool = False,
    aspect: fractions.Fraction = fractions.Fraction(1),
    note: Callable[[str], None] = lambda text: None,
) -> dict[int, prompts_lib.Prompt]:
    """Reads the masks of a video: frame -> prompt of what appears, is corrected or is absent.

    Several masks may be of one frame; where they overlap, the smaller object has the pixel. In a later frame,
    an id that is known corrects that object. Colours that are not the DAVIS palette's are objects 1, 2, ...,
    the reddest first, and one colour is one object in all masks.

    Args:
      options: files, no folders.
      size: (height, width) of the frames in pixels.
      resize: fit masks of another size.
      aspect: a pixel's width over its height; a mask may have the size that a player shows.
      note: called with lines for the user.

    Raises:
      VosError: a mask is broken, empty, without background, of another size (or, with `resize`, of another
        shape); two of one frame hold the same object, or one covers another whole; a black and white one may
        be of any of several objects.
    """
    reader = _Reader(note)
    layers: dict[int, dict[int, np.ndarray]] = {}
    absent: dict[int, set[int]] = {}
    origin: dict[tuple[int, int], pathlib.Path] = {}  # (frame, object) -> its mask
    for mask in sorted(options, key=lambda mask: mask.frame):
        known = {object_id for frame, object_id in origin if frame < mask.frame}
        _check_size(mask, mask_files.png_size(mask.path), size, resize, aspect)
        ids = geometry.resize_ids(reader.ids(mask, known), size)
        present = [int(i) for i in np.unique(ids) if i]
        if not present and mask.object_id is not None and not mask.from_folder:
            _check_absent(mask, known, origin)
            absent.setdefault(mask.frame, set()).add(mask.object_id)
        elif not present and not mask.from_folder:
            hint = (
                f"; {mask}@{min(known)} says that object {min(known)} is not in this frame" if known else ""
            )
            raise errors.VosError(f"{mask}: holds no object (every pixel is background){hint}")
        for object_id in present:
            if object_id in absent.get(mask.frame, ()):
                raise errors.VosError(
                    f"{mask}: another mask says that object {object_id} is not in this frame"
                )
            if (other := origin.get((mask.frame, object_id))) is not None:
                free = min(set(range(1, 256)) - {o for _, o in origin})
                raise errors.VosError(
                    f"{mask}: object {object_id} of frame {mask.frame} is in {other}, too; give one of them "
                    f"another id: {mask}@{free}"
                )
            origin[mask.frame, object_id] = mask.path
            layers.setdefault(mask.frame, {})[object_id] = ids == object_id
        border = np.concatenate([ids[0], ids[-1], ids[:, 0], ids[:, -1]])
        if border.size and border[0] and np.all(border == border[0]):
            note(
                f"{mask}: object {border[0]} covers the whole border of the frame; if it is the background, "
                "paint it black"
            )
    if not layers:
        raise errors.VosError("--masks: no mask holds an object (every pixel is background)")
    ids = {frame: overlaps.stack(of, f"--masks of frame {frame}") for frame, of in layers.items()}
    return {
        frame: prompts_lib.Prompt(ids.get(frame), absent=absent.get(frame, set()))
        for frame in sorted({*ids, *absent})
    }


def _check_absent(mask: MaskOption, known: set[int], origin: Mapping[tuple[int, int], pathlib.Path]) -> None:
    """Raises VosError for a black mask of an object that is unknown, or in another mask of the frame."""
    if mask.object_id not in known:
        listed = ", ".join(map(str, sorted(known))) or "none"
        raise errors.VosError(
            f"{mask}@{mask.object_id}: holds no object (every pixel is background), and no earlier mask "
            f"shows object {mask.object_id}, which would be absent; objects of earlier frames: {listed}"
        )
    if (other := origin.get((mask.frame, mask.object_id))) is not None:
        raise errors.VosError(f"{mask}: object {mask.object_id} is not in this frame, but it is in {other}")


class _Reader:
    """Reads masks one after the other; one colour is one object in all of them."""

    def __init__(self, note: Callable[[str], None]):
        self._note = note
        self._colours: dict[int, int] = {}  # packed colour -> object id

    def ids(self, mask: MaskOption, known: set[int]) -> UInt8[np.ndarray, "H W"]:
        """Returns a mask's ids; `known` are the objects of earlier frames."""
        if mask.object_id is not None:
            return self._object(mask).astype(np.uint8) * np.uint8(mask.object_id)
        found = mask_files.read_prompt(mask.path)
        _check_background(mask, found.picture)
        if found.is_binary:
            return found.ids * np.uint8(self._binary_id(mask, known))
        return found.picture.look_up(self._named(mask, found, known))

    def _object(self, mask: MaskOption) -> Bool[np.ndarray, "H W"]:
        picture = mask_files.read_picture(mask.path)
        mask_colours.check_edges(picture, mask.path)
        _check_background(mask, picture)
        is_object = picture.colours != 0
        void = picture.colours == mask_colours.pack(mask_colours.PALETTE[mask_files.VOID])
        # The value 255 alone is white, whatever the palette shows.
        is_object &= ~void | (np.count_nonzero(is_object) == 1)
        return picture.look_up(is_object).astype(bool)

    def _binary_id(self, mask: MaskOption, known: set[int]) -> int:
        if len(known) > 1:
            listed = ", ".join(map(str, sorted(known)))
            raise errors.VosError(
                f"{mask}: is black and white: which of the objects {listed} does it correct, or is it a new "
                f"one? say {mask}@{min(known)} for the first, {mask}@{max(known) + 1} for a new one"
            )
        return next(iter(known), 1)

    def _named(self, mask: MaskOption, found: mask_colours.Mask, known: set[int]) -> np.ndarray:
        """Returns the table of a mask with an id for each colour of the user's own."""
        table, picture = found.table.copy(), found.picture
        own = set(found.own_colours)
        if own and known and not self._colours and own - set(self._colours):
            colour = mask_colours.show(max(own))
            raise errors.VosError(
                f"{mask}: is {colour} a new object, or which of {', '.join(map(str, sorted(known)))} does it "
                f"correct? say {mask}@{min(known)} for a mask of that object alone, or use "
                f"{mask_colours.palette_hint()}"
            )
        if picture.values is not None and not picture.is_grey:
            is_index = (table == picture.values) & (table > 0)
            for colour, object_id in zip(picture.colours[is_index], table[is_index], strict=True):
                self._colours.setdefault(int(colour), int(object_id))
        fresh = sorted(own - set(self._colours), reverse=True)
        for colour in fresh:
            taken = known | set(self._colours.values()) | set(table.tolist())
            self._colours[colour] = min(set(range(1, mask_files.VOID)) - taken)
        if fresh:
            named = [f"{mask_colours.show(colour)} is object {self._colours[colour]}" for colour in fresh]
            self._note(f"{mask}: {', '.join(named)}")
        for index, colour in enumerate(picture.colours.tolist()):
            if table[index] and colour in self._colours and not picture.is_grey:
                table[index] = self._colours[colour]
        return table


def _check_background(mask: MaskOption, picture: mask_colours.Picture) -> None:
    if np.any(picture.colours == 0):
        return
    counts = [np.count_nonzero(picture.labels == label) for label in picture.present]
    most = mask_colours.show(int(picture.colours[int(np.argmax(counts))]))
    raise errors.VosError(
        f"{mask}: no pixel is black or transparent, so nothing is background; most of it is {most}: paint "
        "the background black (if the objects really fill the frame, leave one pixel black)"
    )


def _check_size(
    mask: MaskOption, found: tuple[int, int], size: tuple[int, int], resize: bool, aspect: fractions.Fraction
) -> None:
    """Raises VosError for a mask that has not the video's size or, with `resize`, its shape."""
    if found == tuple(size):
        return
    shown = round(size[1] * aspect), size[0]
    sizes = f"{found[1]}x{found[0]}, the video {size[1]}x{size[0]} (width x height)"
    sizes += f", shown as {shown[0]}x{shown[1]}" if aspect != 1 else ""
    stretch = found[0] / found[1] * size[1] / size[0]
    if not any(1 / MAX_STRETCH < stretch * by < MAX_STRETCH for by in (1.0, float(aspect))):
        raise errors.VosError(f"{mask}: the mask is {sizes}: the shape differs from the video's")
    if not resize:
        raise errors.VosError(f"{mask}: the mask is {sizes}; --resize-masks fits it")
