"""Cases B07, B23 and B29: what becomes of objects that a user corrects, covers, or gives for no frame."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference.coloured import iou, make_engine, make_model
from vos_jax import Prompt, Session, errors
from vos_jax.models import corrections
from vos_jax.models import state as state_lib


@pytest.fixture(scope="module")
def engine():
    return make_engine(editable=True)


SIZE = (64, 96)
COLOURS = {"red": (250, 20, 20), "green": (20, 250, 20), "blue": (20, 20, 250)}


def scene(length=7):
    """Returns frames of a red, a green and a blue square that move apart and fade, and each one's masks."""
    frames = np.full((length, *SIZE, 3), 40, np.uint8)
    masks = {name: np.zeros((length, *SIZE), bool) for name in COLOURS}
    for t in range(length):
        for name, y, x in (("red", 4, 4 + 4 * t), ("green", 28, 64 - 4 * t), ("blue", 46, 8 + 3 * t)):
            masks[name][t, y : y + 16, x : x + 16] = True
            # No two frames are alike: of equal pixels, a read would take the oldest.
            frames[t][masks[name][t]] = np.clip(np.add(COLOURS[name], 4 * t), 0, 255 - 9 * t)
    return frames, masks


def share(ids, mask):
    return np.count_nonzero(ids & mask) / np.count_nonzero(mask)


# ---------------------------------------------------------------- B29: a correction holds
@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("way", ["step", "edit"])
def test_b29_an_object_that_is_moved_to_another_thing_stays_there(engine, at, way):
    frames, masks = scene()
    session = Session(engine)
    session.step(frames[0], masks["green"][0])
    for t in range(1, 7):
        if t == at and way == "step":
            ids = session.step(frames[t], masks["red"][t]).ids
        else:
            ids = session.step(frames[t]).ids
            ids = session.edit(masks["red"][t]).ids if t == at else ids
        if t >= at:
            assert share(ids > 0, masks["green"][t]) < 0.05, t
            assert share(ids > 0, masks["red"][t]) > 0.8, t


def test_b29_what_a_correction_takes_away_of_an_object_stays_away(engine):
    frames, masks = scene()
    session = Session(engine)
    session.step(frames[0], masks["green"][0] | masks["red"][0])
    session.step(frames[1])
    session.step(frames[2], masks["red"][2])
    for t in range(3, 7):
        ids = session.step(frames[t]).ids
        assert share(ids > 0, masks["green"][t]) < 0.05 and share(ids > 0, masks["red"][t]) > 0.8, t


def test_b29_the_other_objects_keep_their_memory(engine):
    frames, masks = scene()
    session = Session(engine)
    session.step(frames[0], masks["green"][0] * np.uint8(1) + masks["blue"][0] * np.uint8(2))
    session.step(frames[1])
    before = np.asarray(session.snapshot().states[0].memory.object_in_slot)
    session.step(frames[2], masks["red"][2])
    memory = session.snapshot().states[0].memory
    after = np.asarray(memory.object_in_slot)
    assert before[0].any() and after[0].sum() == 1 and after[1].sum() >= 2, (
        "object 1 is known from the correction on"
    )
    assert (after[1] >= before[1]).all(), "object 2 from the first frame on"
    for t in range(3, 7):
        ids = session.step(frames[t]).ids
        assert share(ids == 1, masks["red"][t]) > 0.8 and share(ids == 2, masks["blue"][t]) > 0.8, t
        assert share(ids > 0, masks["green"][t]) < 0.05, t


@pytest.mark.parametrize("shift", [0, 2, -2])
def test_b29_a_correction_of_the_border_forgets_nothing(engine, shift):
    frames, masks = scene()
    session = Session(engine)
    session.step(frames[0], masks["red"][0])
    session.step(frames[1], np.roll(masks["red"][1], shift, axis=1))
    memory = session.snapshot().states[0].memory
    assert np.asarray(memory.object_in_slot)[0].sum() == 2
    assert int(memory.slot_frame[memory.first_slot[0]]) == 0


@pytest.mark.parametrize("width, forgets", [(80, False), (96, True)])
def test_a_prediction_in_the_padding_contradicts_nothing(width, forgets):
    """The same mask and prompt: what lies beyond the real frame is no part of the object."""
    size = (64, 96)
    prob = jnp.zeros((1, 16, 24)).at[0, 4:12, 14:24].set(0.9)
    mask = jnp.zeros((1, *size)).at[0, 16:48, 56:80].set(1.0)
    prompt = state_lib.no_prompt(1, size).replace(mask=mask, given=jnp.ones(1, bool))
    model = make_model()
    state = state_lib.init_state(model, 1, size, (64, width)).replace(object_valid=jnp.ones(1, bool))
    assert bool(corrections.contradicted(prob, prompt, state)[0]) == forgets


def test_b29_a_correction_of_an_object_that_was_lost_forgets_nothing(engine):
    frames, masks = scene()
    gone = np.full_like(frames[0], 40)
    session = Session(engine)
    session.step(frames[0], masks["red"][0])
    session.step(gone)
    session.step(frames[2], masks["red"][2])
    memory = session.snapshot().states[0].memory
    assert int(memory.slot_frame[memory.first_slot[0]]) == 0


def test_b29_corrections_of_every_frame_keep_within_the_memory(engine):
    """Each moves the object to another thing; the memory reserves no more slots than before."""
    frames, masks = scene()
    session = Session(engine)
    session.step(frames[0], masks["green"][0] * np.uint8(1) + masks["blue"][0] * np.uint8(2))
    for t in range(1, 7):
        session.step(frames[t], masks[("green", "red")[t % 2]][t])
        memory = session.snapshot().states[0].memory
        firsts = set(np.asarray(memory.first_slot)[:2].tolist())
        assert len(firsts) == 1 and int(memory.slot_frame[firsts.pop()]) == 0
        assert np.asarray(memory.object_in_slot)[1].any()


def test_b29_several_views_and_both_ways():
    frames, masks = scene()
    views = make_engine(make_model(), flip=True)
    session = Session(views)
    session.step(frames[0], masks["green"][0])
    session.step(frames[1], masks["red"][1])
    for t in range(2, 5):
        ids = session.step(frames[t]).ids
        assert share(ids > 0, masks["green"][t]) < 0.05 and share(ids > 0, masks["red"][t]) > 0.8, t


# ---------------------------------------------------------------- B07: nothing vanishes in an edit
def nested():
    frames, _ = scene()
    person, helmet = np.zeros((2, *SIZE), np.uint8)
    person[8:60, 20:50], helmet[10:22, 26:44] = 1, 1
    frames = np.full_like(frames[:3], 60)
    for t in range(3):
        frames[t][np.roll(person, 2 * t, 1) > 0] = 220, 40, 40
        frames[t][np.roll(helmet, 2 * t, 1) > 0] = 60, 200, 60
    return frames, person, helmet


@pytest.mark.parametrize("what", ["correct", "add", "all"])
def test_b07_an_object_inside_a_corrected_one_is_followed(engine, what):
    frames, person, helmet = nested()
    first = np.where(helmet > 0, 2, person).astype(np.uint8)
    session = Session(engine)
    session.step(frames[0], first)
    if what == "correct":
        np.testing.assert_array_equal(session.edit(person).ids, first)
        assert np.unique(session.step(frames[1]).ids).tolist() == [0, 1, 2] and session.objects == (1, 2)
        return
    # A mask of the whole person leaves a new object nothing but what is 1 or 2 already.
    more = (person > 0) * np.uint8(3) if what == "add" else (first > 0) * np.uint8(3)
    before = session.objects
    with pytest.raises(errors.VosError, match="object [13] would vanish"):
        session.edit(more)
    assert session.objects == before and np.unique(session.step(frames[1]).ids).tolist() == [0, 1, 2]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_b07_objects_that_are_added_one_after_the_other_are_all_followed(engine, order):
    frames, person, helmet = nested()
    session = Session(engine)
    session.step(frames[0])
    for object_id in order:
        session.edit(person if object_id == 1 else helmet * np.uint8(2))
    np.testing.assert_array_equal(session.result.ids, np.where(helmet > 0, 2, person))


def test_b07_an_edit_wins_where_masks_overlap_by_less_than_half(engine):
    frames, _ = scene()
    left, right = np.zeros((2, *SIZE), np.uint8)
    left[10:40, 10:40], right[10:40, 30:50] = 1, 2
    session = Session(engine)
    session.step(frames[0], right)
    ids = session.edit(left).ids
    assert np.count_nonzero(ids == 1) == 900 and np.count_nonzero(ids == 2) == 300


def test_b07_the_same_mask_for_two_objects_is_refused_and_removing_one_works(engine):
    frames, person, _ = nested()
    session = Session(engine)
    session.step(frames[0], person)
    with pytest.raises(errors.VosError, match="object 1 would vanish.*remove it"):
        session.edit(person * np.uint8(5))
    assert np.unique(session.edit(Prompt(person * np.uint8(5), remove={1})).ids).tolist() == [0, 5]


def test_b07_boxes_of_nested_objects_are_both_found(engine):
    frames, person, helmet = nested()
    prompt = Prompt(boxes={2: (9, 25, 23, 45), 1: (6, 17, 62, 53)})
    found = Session(engine).step(frames[0], prompt).ids
    assert set(np.unique(found)) == {0, 1, 2}


# ---------------------------------------------------------------- B23: prompts for frames that are none
@pytest.mark.parametrize("key", ["0", -1, 0.5, None, True, "first.png", (0,)])
def test_b23_a_prompt_for_what_is_no_frame_is_refused_at_once(engine, key):
    frames, masks = scene()
    for make in (
        lambda: Session(engine).run(frames, {key: masks["red"][0]}),
        lambda: Session(engine, prompts={key: masks["red"][0]}),
    ):
        with pytest.raises(errors.VosError, match="whole numbers from 0 on"):
            make()


def test_b23_a_frame_that_never_came_is_named(engine):
    frames, masks = scene()
    results = Session(engine).run(frames[:3], {0: masks["red"][0], 99: masks["red"][0]})
    assert [next(results).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(errors.VosError, match="frame 99, which never came: the frames are 0 to 2"):
        next(results)


def test_b23_a_frame_that_is_over_is_named(engine):
    frames, masks = scene()
    session = Session(engine)
    list(session.run(frames[:3], {0: masks["red"][0]}))
    with pytest.raises(errors.VosError, match="frame 1; the next frame is 3"):
        session.run(frames[3:], {1: masks["red"][0]})
    assert iou(list(session.run(frames[3:], {3: masks["red"][3]}))[0].ids > 0, masks["red"][3]) > 0.9


def test_b23_numpy_numbers_are_frames(engine):
    frames, masks = scene()
    assert len(list(Session(engine).run(frames[:2], {np.int64(1): masks["red"][1]}))) == 2
