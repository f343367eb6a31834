"""Propagation from the prompts to the end, to the beginning, and to both."""

import numpy as np
import pytest

from tests import layouts
from tests.inference.coloured import make_engine, make_model, make_video
from vos_jax import errors
from vos_jax.data import prompts as prompts_lib
from vos_jax.inference import config, objects, propagate
from vos_jax.inference import session as session_lib

FRAMES, IDS = make_video()


@pytest.fixture(scope="module")
def engines():
    """An engine per direction; all share one compiled step."""
    return {name: make_engine(direction=name) for name in config.DIRECTIONS}


class Frames:
    """The frames as a `video.FrameSource`."""

    name, size, num_frames = "coloured", IDS.shape[1:], len(FRAMES)

    def mask_name(self, index):
        return str(index)

    def frames(self, start=0, *, reverse=False):
        return iter(FRAMES[start::-1] if reverse else FRAMES[start:])


def segment(engine, prompts):
    found = list(propagate.propagate(engine, Frames(), prompts))
    assert sorted(result.index for result in found) == list(range(len(FRAMES))), "every frame once"
    return sorted(found, key=lambda result: result.index)


def iou(result, t, object_id):
    a, b = result.ids == object_id, IDS[t] == object_id
    return np.sum(a & b) / np.sum(a | b)


def test_from_a_middle_frame_to_both_ends(engines):
    given = {3: IDS[3]}
    both = segment(engines["both"], given)
    for t, result in enumerate(both):
        for object_id in (3, 7) if t >= layouts.LATE else (3,):
            assert iou(result, t, object_id) > 0.7, (t, object_id)
    forward, backward = (segment(engines[name], given) for name in ("forward", "backward"))
    for t in range(6):
        if t < 3:
            assert not forward[t].ids.any() and forward[t].presence == {}
            np.testing.assert_array_equal(both[t].ids, backward[t].ids)
        if t > 3:
            assert not backward[t].ids.any() and backward[t].presence == {}
            np.testing.assert_array_equal(both[t].ids, forward[t].ids)
    np.testing.assert_array_equal(both[3].ids, IDS[3])


def test_backward_is_forward_on_the_reversed_video(engines):
    backward = segment(engines["backward"], {5: IDS[5], 4: IDS[4]})
    turned = list(session_lib.Session(engines["forward"]).run(FRAMES[::-1], {0: IDS[5], 1: IDS[4]}))
    for a, b in zip(backward, turned[::-1], strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)


def test_objects_annotated_in_different_frames_are_found_before_and_after(engines):
    """7 is drawn in frame 4 only: between 2 and 4 it can only come from the backward pass."""
    given = {1: layouts.only(IDS[1], 3), 4: layouts.only(IDS[4], 7)}
    results = segment(engines["both"], given)
    for t, result in enumerate(results[:5]):
        for object_id in (3, 7) if t >= layouts.LATE else (3,):
            assert iou(result, t, object_id) > 0.7, (t, object_id)
    assert all(set(result.presence) == {3, 7} for result in results)


def test_what_cannot_be_done_is_refused_before_work(engines):
    late = {t: np.full_like(IDS[0], t + 1) for t in range(3)}  # the model keeps two pins
    for engine in engines.values():
        with pytest.raises(errors.VosError, match="first appear in 3 different frames"):
            propagate.check(engine, Frames(), late)
    # Forward frame 2 is two objects' first; backward it leaves frame 0 and 1 to be corrections only.
    two = {0: layouts.only(IDS[2], 3), 1: layouts.only(IDS[2], 3), 2: IDS[2]}
    propagate.check(engines["backward"], Frames(), two)
    propagate.check(engines["both"], Frames(), {3: IDS[3]}, soft=True)
    with pytest.raises(errors.VosError, match="--save-probabilities with --direction both"):
        propagate.check(engines["both"], Frames(), two, soft=True)
    gone = {0: IDS[0], 3: prompts_lib.Prompt(remove={3})}
    propagate.check(engines["forward"], Frames(), gone)
    with pytest.raises(errors.VosError, match="said to be absent forward only"):
        propagate.check(engines["backward"], Frames(), gone)
    session = session_lib.Session(engines["both"], Frames.size, two)
    with pytest.raises(errors.VosError, match="a session goes forward; inference.direction is both"):
        propagate.propagate(engines["both"], Frames(), two, session=session)


def test_a_correction_never_takes_the_place_of_a_first_annotation(engines):
    """Pins full of first annotations: the memory would have evicted one of them."""
    full = {0: layouts.only(IDS[2], 3), 1: layouts.only(IDS[2], 7), 2: IDS[2]}
    with pytest.raises(errors.VosError, match="frame 2 corrects objects.*model.memory.capacity to 5"):
        objects.check(prompts_lib.as_prompts(full), engines["forward"])
    session = session_lib.Session(engines["forward"])
    session.step(FRAMES[0], full[0])
    session.step(FRAMES[1], full[1])
    with pytest.raises(errors.VosError, match="frame 2 corrects"):
        session.step(FRAMES[2], full[2])
    pinned = session_lib.Session(make_engine(make_model(capacity=5)))
    for t in range(6):
        pinned.step(FRAMES[t], full[t] if t < 2 else IDS[t])
    memory = pinned.snapshot().states[0].memory
    held = set(np.asarray(memory.slot_frame)[np.asarray(memory.slot_pinned)].tolist())
    assert held == {0, 1, 5}, "both first annotations and the newest correction"
