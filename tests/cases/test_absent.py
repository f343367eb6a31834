"""Case C21: an object that the user says is absent from a frame, and that comes back later."""

import dataclasses

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

import vos_jax
from tests.inference.coloured import make_engine, make_model
from vos_jax import Prompt, Session, errors
from vos_jax.data import mask_options
from vos_jax.data import prompts as prompts_lib
from vos_jax.inference import objects, propagate, result_store, session_file
from vos_jax.models import corrections
from vos_jax.models import memory as memory_lib

SIZE = (64, 96)
LENGTH = 10
GONE = range(3, 7)
"""Frames without the red square; in the first of them a look-alike comes to stay."""


def scene():
    """Returns frames, and masks of the red square, of its look-alike and of a blue square."""
    frames = np.full((LENGTH, *SIZE, 3), 40, np.uint8)
    masks = {name: np.zeros((LENGTH, *SIZE), bool) for name in ("red", "alike", "blue")}
    for t in range(LENGTH):
        if t not in GONE:
            masks["red"][t, 4:20, 4 + 4 * t : 20 + 4 * t] = True
        if t >= GONE[0]:
            masks["alike"][t, 44:60, 72:88] = True
        masks["blue"][t, 44:60, 8 + 2 * t : 24 + 2 * t] = True
        frames[t][masks["red"][t]] = 240, 20, 20
        frames[t][masks["alike"][t]] = 225, 40, 40
        frames[t][masks["blue"][t]] = 20, 20, 240
        frames[t] += np.uint8(t)  # no two frames are alike: of equal pixels, a read would take the oldest
    return frames, masks


FRAMES, MASKS = scene()
FIRST = MASKS["red"][0] * np.uint8(1) + MASKS["blue"][0] * np.uint8(2)


@pytest.fixture(scope="module")
def engine():
    return make_engine(editable=True)


def pixels(ids, name, t, object_id=1):
    return np.count_nonzero((ids == object_id) & MASKS[name][t])


# ---------------------------------------------------------------- C21 itself
def test_c21_a_look_alike_is_taken_for_an_object_that_left(engine):
    """The situation before the user says anything."""
    results = list(Session(engine).run(FRAMES, {0: FIRST}))
    assert pixels(results[4].ids, "alike", 4) > 100


@pytest.mark.parametrize("way", ["step", "edit", "run"])
def test_c21_an_absent_object_has_no_mask_and_is_found_again(engine, way):
    session, absent = Session(engine), Prompt(absent={1})
    if way == "run":
        results = list(session.run(FRAMES, {0: FIRST, 3: absent}))
    else:
        results = [session.step(frame, FIRST if t == 0 else None) for t, frame in enumerate(FRAMES[:3])]
        results.append(session.step(FRAMES[3], absent if way == "step" else None))
        if way == "edit":
            results[3] = session.edit(absent)
        results += [session.step(frame) for frame in FRAMES[4:]]
    assert results[3].presence[1] == 0 and not np.any(results[3].ids == 1)
    for t in (*GONE, 7, 8, 9):
        assert pixels(results[t].ids, "alike", t) == 0, t
    for t in (8, 9):
        assert pixels(results[t].ids, "red", t) > 200, t
    for t in range(LENGTH):
        assert pixels(results[t].ids, "blue", t, 2) > 200, "the other object is segmented all the time"
    assert session.objects == (1, 2)


def test_c21_probabilities_of_an_absent_object_are_zero(engine):
    session = Session(engine)
    session.step(FRAMES[0], FIRST, soft=True)
    found = session.step(FRAMES[3], Prompt(absent={1}), soft=True)
    assert max(found.prob[1].max(), session.probabilities()[1].max()) < 1e-9
    np.testing.assert_allclose(found.prob.sum(axis=0), 1, atol=1e-5)


def test_c21_absent_in_every_view():
    engine = make_engine(flip=True, scales=(1.0, 1.5))
    found = list(Session(engine).run(FRAMES[:5], {0: FIRST, 3: Prompt(absent={1})}))
    assert not np.any(found[3].ids == 1) and pixels(found[4].ids, "alike", 4) == 0


def test_c21_the_state_goes_to_disk_and_back(engine, tmp_path):
    session = Session(engine)
    for t in range(4):
        session.step(FRAMES[t], {0: FIRST, 3: Prompt(absent={1})}.get(t))
    session_file.save(tmp_path / "state.safetensors", session)
    again = session_file.load(tmp_path / "state.safetensors", engine)
    for frame in FRAMES[4:]:
        np.testing.assert_array_equal(again.step(frame).ids, session.step(frame).ids)


# ---------------------------------------------------------------- relatives: the memory
def test_predicted_masks_of_an_absent_object_leave_the_memory_and_annotated_ones_stay():
    memory = memory_lib.init(make_model().memory_spec, 2, SIZE)
    memory = memory.replace(
        object_in_slot=jnp.ones((2, 4), bool).at[1, 2].set(False),
        prob=jnp.ones_like(memory.prob),
        slot_valid=jnp.ones(4, bool),
        slot_pinned=jnp.array([True, False, False, True]),
        slot_frame=jnp.array([0, 2, 4, -1]),  # the last one holds prototypes
        first_slot=jnp.array([0, 0]),
    )
    after = corrections.forget(memory, jnp.zeros(2, bool), jnp.array([True, False]))
    assert after.object_in_slot.tolist() == [[True, False, False, False], [True, True, False, True]]
    assert after.prob[0].sum(axis=(1, 2)).tolist() == [16 * 24, 0, 0, 0] and np.all(after.prob[1] == 1)
    assert after.first_slot.tolist() == [0, 0]
    assert after.slot_valid.tolist() == [True, True, False, True], "no object is left in slot 2"


def test_a_frame_with_an_absent_object_stays_in_the_memory(engine):
    session = Session(engine)
    for t, frame in enumerate(FRAMES[:9]):
        session.step(frame, {0: FIRST, 3: Prompt(absent={1})}.get(t))
    memory = session.snapshot().states[0].memory
    assert 3 in np.asarray(memory.slot_frame)[np.asarray(memory.slot_pinned)]


def test_absent_objects_take_no_more_slots_than_corrections(engine):
    session = Session(engine)
    session.step(FRAMES[0], FIRST)
    for frame in FRAMES[1:]:
        session.step(frame, Prompt(absent={1}))
    memory = session.snapshot().states[0].memory
    assert np.sum(memory.slot_pinned) <= 2 and int(memory.slot_frame[memory.first_slot[0]]) == 0


# ---------------------------------------------------------------- relatives: prompts and edits
def test_an_edit_may_draw_an_object_that_was_said_to_be_absent(engine):
    session = Session(engine)
    session.step(FRAMES[0], FIRST)
    session.step(FRAMES[1], Prompt(absent={1}))
    found = session.edit(MASKS["red"][1])
    assert pixels(found.ids, "red", 1) == MASKS["red"][1].sum() and found.presence[1] == 1


def test_an_edit_takes_the_mask_of_the_same_frame_away(engine):
    session = Session(engine)
    session.step(FRAMES[0], FIRST)
    session.step(FRAMES[1], MASKS["red"][1])
    found = session.edit(Prompt(absent={1}))
    assert not np.any(found.ids == 1) and found.presence[1] == 0


def test_an_absent_object_can_go(engine):
    session = Session(engine)
    session.step(FRAMES[0], FIRST)
    session.step(FRAMES[1], Prompt(absent={1}))
    assert set(session.edit(Prompt(remove={1})).presence) == {2}


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: Prompt(FIRST, absent={1}), "object 1 is said to be absent, and has a mask"),
        (lambda: Prompt(boxes={3: (0, 0, 9, 9)}, absent={3}), "object 3 is said to be absent"),
        (lambda: Prompt(absent={3}, remove={3}), "object 3 is said to be absent"),
        (lambda: Prompt(absent={0}), "ids are 1 to 254"),
        (lambda: Prompt(absent={255}), "ids are 1 to 254"),
    ],
)
def test_contradictions_are_refused(make, match):
    with pytest.raises(errors.VosError, match=match):
        make()


def test_unknown_objects_cannot_be_absent(engine):
    session = Session(engine)
    with pytest.raises(errors.VosError, match="object 1 cannot be absent from frame 0"):
        session.step(FRAMES[0], Prompt(absent={1}))
    session.step(FRAMES[0], FIRST)
    with pytest.raises(errors.VosError, match="object 7 cannot be absent from frame 1: .* are \\[1, 2\\]"):
        session.step(FRAMES[1], Prompt(absent={7}))
    with pytest.raises(errors.VosError, match="object 1 cannot be absent from frame 0"):
        session.edit(Prompt(absent={1}))  # its first mask is of this very frame
    with pytest.raises(errors.VosError, match="object 7 is said to be absent from frame 2"):
        objects.check(prompts_lib.as_prompts({0: FIRST, 2: Prompt(absent={7})}), engine)


def test_an_empty_edit_says_how_an_object_is_absent(engine):
    session = Session(engine)
    session.step(FRAMES[0], FIRST)
    with pytest.raises(
        errors.VosError, match=r"Prompt\(absent=\{1\}\) says that object 1 is not in the frame"
    ):
        session.edit(np.zeros(SIZE, np.uint8))


@pytest.mark.parametrize("direction", ["backward", "both"])
def test_absent_objects_are_refused_backward_before_work_starts(engine, direction):
    video = dataclasses.make_dataclass("Video", [("size", tuple), ("num_frames", int), ("name", str)])
    backward = make_engine(direction=direction)
    with pytest.raises(errors.VosError, match="said to be absent forward only"):
        propagate.check(backward, video(SIZE, LENGTH, "v"), {0: FIRST, 3: Prompt(absent={1})})


# ---------------------------------------------------------------- relatives: the command line
def write(path, ids):
    cv2.imwrite(str(path), ids)
    return path


@pytest.fixture
def files(tmp_path):
    write(tmp_path / "first.png", FIRST)
    write(tmp_path / "black.png", np.zeros(SIZE, np.uint8))
    return tmp_path


def read(*texts):
    return mask_options.read([mask_options.parse(str(text)) for text in texts], SIZE)


def test_a_black_mask_of_an_object_says_that_it_is_absent(files):
    prompts = read(files / "first.png", f"3:{files}/black.png@1", f"5:{files}/black.png@2")
    assert list(prompts) == [0, 3, 5]
    assert prompts[3].absent == {1} and prompts[3].objects == () and prompts[5].absent == {2}
    plain = result_store.prompt_settings(read(files / "first.png"))
    said = result_store.prompt_settings(prompts)
    assert plain == {"0": said["0"]} and said["3"] != said["5"], "other masks: they are segmented anew"


def test_one_object_is_absent_and_another_one_corrected_in_a_frame(files):
    write(files / "blue.png", MASKS["blue"][3] * np.uint8(255))
    prompts = read(files / "first.png", f"3:{files}/black.png@1", f"3:{files}/blue.png@2")
    assert prompts[3].absent == {1} and prompts[3].objects == (2,)


@pytest.mark.parametrize(
    "texts, match",
    [
        (["{}/first.png", "3:{}/black.png"], "black.png@1 says that object 1 is not in this frame"),
        (["{}/first.png", "3:{}/black.png@7"], "no earlier mask shows object 7.*: 1, 2"),
        (["{}/black.png@1"], "no earlier mask shows object 1.*: none"),
        (["{}/black.png"], r"every pixel is background\)$"),
        (
            ["{}/first.png", "3:{}/red.png@1", "3:{}/black.png@1"],
            "object 1 is not in this frame, but it is in",
        ),
        (["{}/first.png", "3:{}/black.png@1", "3:{}/red.png@1"], "says that object 1 is not in this frame"),
    ],
)
def test_black_masks_that_say_nothing_are_refused(files, texts, match):
    write(files / "red.png", MASKS["red"][7] * np.uint8(255))
    with pytest.raises(errors.VosError, match=match):
        read(*(text.format(files) for text in texts))


def test_c21_as_it_was_reported():
    rng = np.random.default_rng(0)
    back = np.kron(rng.integers(60, 150, (12, 16, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    frames, first = [], np.zeros((96, 128), np.uint8)
    for t in range(5):
        frame = back.copy()
        frame[60:84, 90:114] = 60, 200, 70
        if t < 3:
            frame[8 + t : 32 + t, 8 + 2 * t : 32 + 2 * t] = 60, 200, 70
        frames.append(frame)
    first[8:32, 8:32] = 1
    engine = vos_jax.load("training_free", overrides=["inference.min_size=0"])
    session = Session(engine)
    ids = [session.step(frames[0], first), *map(session.step, frames[1:4])][-1].ids
    taken = np.count_nonzero(ids)
    assert taken > 200
    assert np.count_nonzero(session.edit(Prompt(absent={1})).ids) == 0
    assert np.count_nonzero(session.step(frames[4]).ids) < taken / 2
