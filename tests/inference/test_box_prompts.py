"""Boxes to masks: by colours alone, and by the mask head of a model that has one."""

import numpy as np
import pytest

from tests import tiny
from tests.inference import coloured
from vos_jax import errors
from vos_jax.inference import box_prompts


def scene():
    """A red square on grey, and its mask."""
    frame = np.full((64, 96, 3), 90, np.uint8)
    there = np.zeros((64, 96), bool)
    there[8:32, 10:34] = True
    frame[there] = 230, 20, 20
    return frame, there


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("box", [(2, 4, 36, 40), (36, 40, 2, 4), (2, 40, 36, 4), (-3.0, -9.4, 36.0, 40.2)])
def test_a_box_becomes_a_mask_whichever_corners_are_named(box):
    frame, there = scene()
    engine = coloured.make_engine()
    assert iou(engine.mask_of_box(frame, box), there) > 0.9
    # A whole frame is a box, too.
    assert iou(engine.mask_of_box(frame, (0, 0, 64, 96)), there) > 0.9


def test_what_the_mask_head_is_certain_of_stands_and_the_rest_is_parted_by_colour():
    frame, there = scene()
    box = (2, 4, 36, 40)
    prob = np.where(there, 0.6, 0.4).astype(np.float32)
    prob[10:14, 12:16], prob[20:24, 20:24] = 0.02, 0.98
    frame[20:24, 20:24] = 90  # as grey as the background
    found = box_prompts.grab_cut(frame, box, prob)
    assert not found[10:14, 12:16].any() and found[20:24, 20:24].all()
    assert iou(found, there) > 0.9
    outside = np.ones(found.shape, bool)
    outside[2:36, 4:40] = False
    assert not found[outside].any()
    with pytest.raises(errors.VosError, match="stands out"):
        box_prompts.grab_cut(frame, box, np.zeros_like(prob))


def test_a_model_with_a_mask_head_is_asked(monkeypatch):
    """Frames of any size; one program per padded size."""
    asked = []
    cut = box_prompts.grab_cut
    monkeypatch.setattr(box_prompts, "grab_cut", lambda *x: asked.append(x[2].shape) or cut(*x[:2]))
    of_box = box_prompts.BoxPrompts(tiny.model(), tiny.params())
    frame, there = scene()
    for size in ((64, 96), (50, 61), (64, 96)):
        shown = frame[: size[0], : size[1]]
        assert iou(of_box(shown, (2, 4, 36, 40)), there[: size[0], : size[1]]) > 0.9
    assert asked == [(64, 96), (50, 61), (64, 96)] and of_box._head._cache_size() == 2


def test_a_box_too_small_is_refused_in_words():
    frame, _ = scene()
    for box in ((5, 5, 40, 6), (200, 200, 300, 300)):
        with pytest.raises(errors.VosError, match="too small"):
            box_prompts.BoxPrompts(coloured.make_model(), {})(frame, box)
