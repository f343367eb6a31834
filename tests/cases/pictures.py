"""Masks of one picture, saved as programs save them, and read as segment.py reads them."""

import numpy as np
import pytest
from PIL import Image

from vos_jax import errors
from vos_jax.data import mask_options

SIZE = (64, 96)
BOX, DISC = np.zeros((2, *SIZE), bool)
BOX[14:47, 10:35] = True
DISC[(np.indices(SIZE)[0] - 40) ** 2 + (np.indices(SIZE)[1] - 76) ** 2 <= 121] = True
IDS = (BOX + 2 * DISC).astype(np.uint8)
RED, GREEN = (128, 0, 0), (0, 128, 0)
"""The DAVIS palette's colours of objects 1 and 2."""


def paint(box=RED, disc=GREEN, background=(0, 0, 0)):
    picture = np.empty((*SIZE, 3), np.uint8)
    picture[:], picture[BOX], picture[DISC] = background, box, disc
    return picture


def indexed(path, order, box=RED, disc=GREEN, transparent=False):
    """Saves the picture with a palette in an order of "b" box, "d" disc, "0" background."""
    colours = {"b": box, "d": disc, "0": (0, 0, 0)}
    values = np.full(SIZE, order.index("0"), np.uint8)
    values[BOX] = order.index("b") if "b" in order else order.index("0")
    values[DISC] = order.index("d") if "d" in order else order.index("0")
    image = Image.fromarray(values)
    image.putpalette([level for name in order for level in colours.get(name, (255, 0, 255))])
    options = {"transparency": order.index("0")} if transparent else {}
    image.save(path, **options)


def grey(path, box, disc=0):
    Image.fromarray((BOX * np.uint8(box) + DISC * np.uint8(disc)).astype(np.uint8)).save(path)


def read(*texts, size=SIZE, frames=("000", "001", "002"), notes=None, **options):
    given = mask_options.expand(
        map(mask_options.parse, texts), lambda stem: frames.index(stem) if stem in frames else None
    )
    found = mask_options.read(given, size, note=(notes if notes is not None else []).append, **options)
    return {frame: prompt.ids for frame, prompt in found.items()}


def first(*texts, **options):
    return read(*texts, **options)[0]


def refuse(*texts, said, **options):
    with pytest.raises(errors.VosError) as caught:
        read(*texts, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in (said,) if isinstance(said, str) else said:
        assert word in message, message
    return message


def same(found, wanted=IDS):
    np.testing.assert_array_equal(found, wanted)
