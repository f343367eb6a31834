"""Frames, masks and numbers at the edge of what there is: masks stay valid, no NaN reaches the memory."""

import concurrent.futures
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vos_jax
from tests import tiny
from tests.inference import coloured
from vos_jax import errors
from vos_jax.inference import frame_result, view
from vos_jax.inference import session as session_lib
from vos_jax.models import memory, training_free

SIZE = (64, 96)


@pytest.fixture
def float_frames(monkeypatch):
    """Lets float frames pass, which the model takes and the API refuses."""
    monkeypatch.setattr(view, "as_frame", lambda frame, index: frame)


@pytest.fixture(scope="module")
def engine():
    """The whole method with random weights."""
    # Room for two pins: objects that come in different frames.
    room = memory.MemoryConfig(capacity=4, every=2)
    model = tiny.model(
        memory=room, proposals=dataclasses.replace(tiny.CONFIG.proposals, candidates=8, capacity=4)
    )
    return coloured.make_engine(model, tiny.params(), object_buckets=(2,))


def check(session: session_lib.Session, result: frame_result.FrameResult) -> None:
    """Asserts that a result and all state carried to the next frame are finite and in range."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(session.snapshot().states):
        assert np.isfinite(np.asarray(leaf, np.float64)).all(), jax.tree_util.keystr(path)
    assert set(np.unique(result.ids)) <= {0, *session.objects} and result.ids.shape == session.size
    assert all(0 <= p <= 1 for p in result.presence.values())
    if result.prob is not None:
        np.testing.assert_allclose(result.prob.sum(axis=0), 1.0, atol=1e-4)


def frame(kind: str) -> np.ndarray:
    frames, _ = tiny.video(1, SIZE)
    image = frames[0].astype(np.float32) / 255
    if kind == "nan":
        image[...] = np.nan
    elif kind == "some nan":
        image[10:20, 10:40] = np.nan
    elif kind == "infinite":
        image[:, ::2], image[:, 1::2] = np.inf, -np.inf
    elif kind == "huge":
        image *= 1e38
    elif kind in ("black", "white"):
        image[...] = kind == "white"
    return image


@pytest.mark.parametrize("kind", ["nan", "some nan", "infinite", "huge", "black", "white"])
def test_a_frame_that_holds_no_numbers_or_no_picture_spoils_nothing(engine, float_frames, kind):
    _, ids = tiny.video(1, SIZE)
    session = session_lib.Session(engine, SIZE)
    for index, what in enumerate(("good", kind, kind, "good", "good")):
        check(session, session.step(frame(what), ids[0] if index == 0 else None, soft=True))
    session = session_lib.Session(engine, SIZE)
    check(session, session.step(frame(kind), ids[0], soft=True))
    check(session, session.step(frame("good"), soft=True))


def test_objects_of_one_pixel_of_the_whole_frame_none_and_all_gone(engine, float_frames):
    good = frame("good")
    session = session_lib.Session(engine, SIZE)
    result = session.step(good, soft=True)
    check(session, result)
    assert not result.ids.any(), "an empty memory finds nothing"
    one = np.zeros(SIZE, np.uint8)
    one[33, 41] = 5
    result = session.step(good, one, soft=True)
    check(session, result)
    assert result.ids[33, 41] == 5 and session.objects == (5,)
    check(session, session.step(good, soft=True))
    result = session.step(good, np.full(SIZE, 7, np.uint8), soft=True)
    check(session, result)
    assert (result.ids == 7).all()
    check(session, session.step(good, soft=True))
    result = session.step(good, vos_jax.Prompt(remove=frozenset({5, 7})), soft=True)
    check(session, result)
    assert not result.ids.any() and not session.objects
    for _ in range(3):
        result = session.step(good, soft=True)
        check(session, result)
        assert not result.ids.any(), "nobody is left"


def test_a_model_that_answers_with_nan_loses_the_object_not_the_video():
    """Half-precision logits overflow: the mask is empty there, and what is remembered stays whole."""

    class Overflowing(training_free.TrainingFree):
        def track(self, params, encoded, now, *, train=False):
            prediction = super().track(params, encoded, now, train=train)
            logits = jnp.where(now.frame_index == 2, jnp.float16(6e4) * jnp.float16(4), 0).astype(jnp.float32)
            spoilt = logits - logits  # NaN in frame 2, 0 in others
            return prediction.replace(
                prob=prediction.prob + spoilt,
                presence=prediction.presence + spoilt,
                read=prediction.read.replace(slot_attention=prediction.read.slot_attention + spoilt),
            )

    model = Overflowing(config=coloured.make_model().config)
    frames, ids = coloured.make_video()
    session = session_lib.Session(coloured.make_engine(model, object_buckets=(2,)))
    given = np.where(ids[0] == 3, ids[0], 0).astype(np.uint8)
    for index, image in enumerate(frames):
        result = session.step(image, given if index == 0 else None, soft=True)
        check(session, result)
        if index == 2:
            assert not result.ids.any() and result.presence == {3: 0.0}
    assert coloured.iou(result.ids == 3, ids[5] == 3) > 0.7, "found again"


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_what_overflows_the_memorys_type_is_not_read(dtype):
    """Infinity in one key made every later frame's softmax NaN."""
    config = memory.MemoryConfig(capacity=3)
    spec = memory.MemorySpec(config=config, stride=1, key_size=2, embed_size=2, value_size=2, dtype=dtype)
    empty = memory.init(spec, 2, (4, 6))
    key, value = np.ones((4, 6, 2), np.float32), np.ones((2, 4, 6, 2), np.float32)
    key[1, 2, 0] = 1e5 if dtype == jnp.float16 else np.inf
    value[1, 3, 3], value[0, 0, 0] = np.nan, -np.inf
    prob = np.full((2, 4, 6), 0.5, np.float32)
    prob[0, 0, 0] = np.nan
    entry = memory.Entry(
        key=jnp.asarray(key),
        embed=jnp.ones((4, 6, 2)),
        value=jnp.asarray(value),
        prob=jnp.asarray(prob),
        pixel_valid=jnp.asarray(key[..., 0] > 0),
    )
    written = memory.write(
        empty,
        lambda: entry,
        frame_index=jnp.int32(0),
        pinned=jnp.bool_(True),
        first=jnp.ones(2, bool),
        object_valid=jnp.ones(2, bool),
        config=config,
    )
    for leaf in jax.tree.leaves(written):
        assert np.isfinite(np.asarray(leaf, np.float64)).all()
    assert int(written.pixel_valid[0].sum()) == 23 and not written.pixel_valid[0, 1, 2]
    assert float(written.value[1, 0, 3, 3, 0]) == 0 and float(written.value[1, 0, 0, 0, 0]) == 1


def test_an_object_that_is_gone_for_500_frames_is_found_again():
    frames, ids = coloured.make_video(length=6)
    session = session_lib.Session(coloured.make_engine(object_buckets=(1,)))
    given = np.where(ids[0] == 3, ids[0], 0).astype(np.uint8)
    session.step(frames[0], given, soft=True)
    session.step(frames[1], soft=True)
    empty = np.full_like(frames[0], 40)
    for _ in range(500):
        result = session.step(empty, soft=True)
    check(session, result)
    assert np.sum(result.ids > 0) < 0.1 * result.ids.size
    result = session.step(frames[1], soft=True)
    check(session, result)
    assert coloured.iou(result.ids == 3, ids[1] == 3) > 0.5


def test_64_objects_at_once():
    rng = np.random.default_rng(0)
    ids = np.kron(np.arange(1, 65, dtype=np.uint8).reshape(8, 8), np.ones((8, 8), np.uint8))
    image = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    session = session_lib.Session(coloured.make_engine(), prompts={0: ids})
    check(session, session.step(image, ids, soft=True))
    result = session.step(image, soft=True)
    check(session, result)
    assert session.snapshot().states[0].object_valid.size == 64 and np.mean(result.ids == ids) > 0.9


@pytest.mark.parametrize("bad", [np.nan, 0.5])
def test_the_api_takes_no_float_frames(bad):
    session = session_lib.Session(coloured.make_engine())
    with pytest.raises(errors.VosError, match="uint8 RGB"):
        session.step(np.full((*SIZE, 3), bad, np.float32))
    assert session.index == 0


def test_four_engines_in_threads_give_what_each_gives_alone():
    videos = []
    for seed in range(4):
        frames, ids = coloured.make_video(length=8)
        noise = np.random.default_rng(seed).integers(0, 40, frames.shape, dtype=np.uint8)
        videos.append((np.minimum(frames, 215) + noise, np.where(ids[0] == 3, 3, 0).astype(np.uint8)))
    engines = [coloured.make_engine(object_buckets=(1,)) for _ in videos]

    def masks_of(number: int) -> np.ndarray:
        frames, first = videos[number]
        return np.stack([x.ids for x in session_lib.Session(engines[number]).run(frames, {0: first})])

    alone = [masks_of(number) for number in range(4)]
    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            together = list(pool.map(masks_of, range(4)))
        for expected, found in zip(alone, together, strict=True):
            np.testing.assert_array_equal(expected, found)
