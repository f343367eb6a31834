"""Object ids from a mask's pixels: one set of rules for grey, indexed and coloured masks."""

import dataclasses
import os

import cv2
import numpy as np

from vos_jax import errors
from vos_jax.typing import Int, Shaped, UInt8

MAX_OBJECTS = 64
"""Maximum number of objects in a mask or video: the largest of `inference.object_buckets`."""

VOID = 255
WHITE = 0xFFFFFF

# In a grey mask, ids are the darkest values; brighter ones beside white are levels of a painter.
_MAX_ID_BESIDE_WHITE = 32
# Of a soft edge's level, this share of pixels lies between a darker and a brighter pixel.
_HALO_SHARE = 0.9

UNKNOWN = -1
"""Entry of `Mask.table` for a colour that is no object of the palette."""


def _make_palette() -> UInt8[np.ndarray, "256 3"]:
    """Returns the palette: bits 3k to 3k + 2 of an id are bit 7 - k of RGB."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = (ids >> (3 * level + channel)) & 1
            palette[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return palette


PALETTE = _make_palette()
"""The DAVIS palette: colour of object id i, uint8 [256,3] RGB."""


def pack(rgb: UInt8[np.ndarray, "*n 3"]) -> Int[np.ndarray, "*n"]:
    """Returns colours as numbers, 0xRRGGBB."""
    red, green, blue = (np.asarray(rgb)[..., c].astype(np.int64) for c in range(3))
    return red << 16 | green << 8 | blue


def show(colour: int) -> str:
    """Returns a packed colour as text."""
    return f"({colour >> 16},{colour >> 8 & 255},{colour & 255})"


def _make_colour_ids() -> dict[int, int]:
    """Maps packed RGB to object id; the official DAVIS files have 191 where the palette's rule gives 192."""
    known = [*range(MAX_OBJECTS + 1), VOID]
    colours = {int(pack(PALETTE[i])): i for i in known}
    colours |= {int(pack(np.where(PALETTE[i] == 192, 191, PALETTE[i]))): i for i in known}
    return colours


_COLOUR_IDS = _make_colour_ids()


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded mask, before its colours are objects.

    Attributes:
      labels: Index of each pixel's colour.
      present: Labels that occur, ascending.
      colours: Of `present`, packed; transparent pixels are black.
      values: Of `present`, the pixel value of a grey or indexed file, 0 if transparent; None: an RGB file.
      is_grey: The file is grey: values are what it shows.
    """

    labels: Shaped[np.ndarray, "H W"]
    present: Int[np.ndarray, "K"]
    colours: Int[np.ndarray, "K"]
    values: Int[np.ndarray, "K"] | None = None
    is_grey: bool = False

    def look_up(self, table: Int[np.ndarray, "K"]) -> UInt8[np.ndarray, "H W"]:
        """Returns each pixel's entry of a table of `present`."""
        whole = np.zeros(max(256, int(self.present[-1]) + 1), np.uint8)
        whole[self.present] = table
        return cv2.LUT(self.labels, whole) if self.labels.dtype == np.uint8 else whole[self.labels]

    def is_black(self) -> UInt8[np.ndarray, "H W"]:
        """Returns 1 where the picture is black or transparent, else 0."""
        return self.look_up((self.colours == 0).astype(np.uint8))


@dataclasses.dataclass(frozen=True)
class Mask:
    """A mask whose colours were read as objects.

    Attributes:
      picture: The decoded file.
      table: Of `picture.present`, the object id; 0 is background, `UNKNOWN` an own colour of the user's.
      is_binary: Black and white: the mask says nothing about ids.
    """

    picture: Picture
    table: Int[np.ndarray, "K"]
    is_binary: bool = False

    @property
    def ids(self) -> UInt8[np.ndarray, "H W"]:
        """Object ids; own colours are background."""
        return self.picture.look_up(np.maximum(self.table, 0))

    @property
    def own_colours(self) -> list[int]:
        """The packed colours that are no object of the palette."""
        return [int(c) for c in self.picture.colours[self.table == UNKNOWN]]


def interpret(picture: Picture, path: str | os.PathLike, *, is_prompt: bool = False) -> Mask:
    """Reads a mask's colours as objects (docs/method.md, "Scores and protocols").

    Args:
      picture: the decoded mask.
      path: the file's name, for errors.
      is_prompt: the mask is a user's. White beside other greys is refused then, not void, and greys of an
        RGB file are grey levels, not colours of the palette.

    Returns:
      The mask, with up to MAX_OBJECTS objects.

    Raises:
      VosError: grey levels that are not ids, soft edges, or more than MAX_OBJECTS objects.
    """
    colours, values = picture.colours, picture.values
    if WHITE in colours and set(colours.tolist()) <= {0, WHITE}:
        return Mask(picture, (colours == WHITE).astype(np.int64), is_binary=True)
    if values is not None and VOID in values and set(values.tolist()) <= {0, VOID}:
        return Mask(picture, (values == VOID).astype(np.int64), is_binary=True)
    grey = colours & 255
    known = np.array([_COLOUR_IDS.get(c, UNKNOWN) for c in colours.tolist()])
    shows_grey = bool(np.all(colours == grey * 0x010101))
    if picture.is_grey or (shows_grey and (values is None or bool(np.all(grey == values)))):
        if picture.is_grey or is_prompt or UNKNOWN in known:
            levels = grey if values is None else values
            return Mask(picture, _grey_ids(picture, levels, path, is_prompt))
    has_own = UNKNOWN in known
    if values is not None:
        known = _index_ids(colours, values, known)
    table = np.where(known == VOID, 0, known)
    if is_prompt and has_own:
        check_edges(picture, path)
    _check_count(table[table != UNKNOWN], path)
    return Mask(picture, table)


def check_palette(mask: Mask, path: str | os.PathLike) -> None:
    """Raises VosError for colours that say nothing about ids, where no user can be asked."""
    own = mask.own_colours
    if own and mask.picture.values is not None:
        raise errors.VosError(
            f"{path}: indexed mask whose palette has black at index "
            f"{int(mask.picture.values[mask.picture.colours == 0][0])}, so its indices are not object ids; "
            f"export it with background 0, or in {palette_hint()}"
        )
    if own:
        raise errors.VosError(
            f"{path}: RGB mask with {len(own)} colour(s) outside the DAVIS palette: "
            f"{some(map(show, own))}; export it as an indexed PNG, or with hard edges (no anti-aliasing) in "
            f"{palette_hint()}"
        )


def palette_hint() -> str:
    """Returns the first colours of the DAVIS palette as text."""
    return "the palette's colours: (128,0,0), (0,128,0), (128,128,0), (0,0,128), ..."


def check_edges(picture: Picture, path: str | os.PathLike) -> None:
    """Raises VosError for a mask with soft edges, whatever its colours say."""
    if len(picture.present) > MAX_OBJECTS + 2:
        raise _soft(path, f"{len(picture.present)} colours")
    _check_edges(picture, _luminance(picture.colours), path, allowed=0)


def some(values, most: int = 6) -> str:
    """Returns the first values as text, and the last one."""
    values = [str(v) for v in values]
    return ", ".join(values[:most]) + (f", ... {values[-1]}" if len(values) > most else "")


def _grey_ids(
    picture: Picture, levels: np.ndarray, path: str | os.PathLike, is_prompt: bool
) -> Int[np.ndarray, "K"]:
    """Returns the ids of grey levels; VosError where they are not ids."""
    ids = levels[(levels > 0) & (levels < VOID)]
    highest = int(ids.max(initial=0))
    if len(levels) > MAX_OBJECTS + 2:
        raise _soft(path, f"{len(levels)} values ({some(levels)})")
    if highest > MAX_OBJECTS or (VOID in levels and (is_prompt or highest > _MAX_ID_BESIDE_WHITE)):
        one = ", or say @ID behind its name if all that is not black is one object" if is_prompt else ""
        raise errors.VosError(
            f"{path}: grey mask with the values {some(levels)}: these are not object ids, the mask looks "
            f"painted in grey levels or anti-aliased; give the objects the values 1, 2, ... or "
            f"colours{'' if is_prompt else ', or export it with only 0 and 255'}{one}"
        )
    if highest > len(ids):  # a soft edge does not have every value from 1 on
        _check_edges(picture, levels, path, allowed=1)
    return np.where(levels == VOID, 0, levels)


def _index_ids(colours: np.ndarray, values: np.ndarray, known: np.ndarray) -> Int[np.ndarray, "K"]:
    """Returns the ids of an indexed mask: by its colours if all are the DAVIS palette's, else by index.

    A palette of the user's whose black is not index 0 was sorted by a program; its colours stay `UNKNOWN`.
    """
    shows_all = len(set(colours.tolist())) == len(set(zip(colours.tolist(), values.tolist(), strict=True)))
    if UNKNOWN not in known and shows_all:
        return known
    is_black = colours == 0
    if not is_black.any() or (0 in values[is_black] and 0 not in values[~is_black]):
        return values
    return known


def _luminance(colours: np.ndarray) -> np.ndarray:
    return (colours >> 16) + (colours >> 8 & 255) + (colours & 255)


def _check_edges(picture: Picture, levels: np.ndarray, path: str | os.PathLike, *, allowed: int) -> None:
    """Raises VosError where more than `allowed` levels are only borders between darker and brighter ones."""
    order, rank = np.unique(levels, return_inverse=True)
    if not 2 < len(order) <= 256:
        return
    plane = picture.look_up(rank)
    window = np.ones((3, 3), np.uint8)
    between = (cv2.erode(plane, window) < plane) & (plane < cv2.dilate(plane, window))
    total = np.bincount(plane.ravel(), minlength=len(order))
    share = np.bincount(plane[between], minlength=len(order)) / np.maximum(total, 1)
    if np.sum(share >= _HALO_SHARE) > allowed:
        raise _soft(path, f"{len(picture.present)} colours ({some(map(show, picture.colours.tolist()))})")


def _soft(path: str | os.PathLike, found: str) -> errors.VosError:
    return errors.VosError(
        f"{path}: mask with {found}: it looks anti-aliased (soft edges); export it with hard edges, each "
        "object in one flat colour"
    )


def _check_count(ids: np.ndarray, path: str | os.PathLike) -> None:
    count = len(set(ids.tolist()) - {0})
    if count > MAX_OBJECTS:
        raise errors.VosError(f"{path}: {count} objects; at most {MAX_OBJECTS} are tracked in one video")
