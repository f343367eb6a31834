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
from vos_jax.inference import tracked, tracker
from vos_jax.models import memory, training_free

SIZE = (64, 96)


@pytest.fixture(scope="module")
def follower():
    """The whole method with random weights, for float frames."""
    # Room for two pins: objects that come in different frames.
    room = memory.MemoryConfig(capacity=4, every=2)
    model = tiny.model(
        memory=room, proposals=dataclasses.replace(tiny.CONFIG.proposals, candidates=8, capacity=4)
    )
    made = tracker.Tracker(model, tiny.params(), buckets=(2,), with_prob=True)
    made.start(SIZE, 2).step(np.zeros((*SIZE, 3), np.float32))
    return made


def check(track: tracker.Track, result: tracked.TrackedFrame) -> None:
    """Whether a result and all that is carried to the next frame is in order."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(track.state):
        assert np.isfinite(np.asarray(leaf, np.float64)).all(), jax.tree_util.keystr(path)
    assert set(np.unique(result.ids)) <= {0, *track.objects} and result.ids.shape == track.size
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
def test_a_frame_that_holds_no_numbers_or_no_picture_spoils_nothing(follower, kind):
    _, ids = tiny.video(1, SIZE)
    track = follower.start(SIZE, 2)
    for index, what in enumerate(("good", kind, kind, "good", "good")):
        check(track, track.step(frame(what), ids[0] if index == 0 else None))
    track = follower.start(SIZE, 2)
    check(track, track.step(frame(kind), ids[0]))
    check(track, track.step(frame("good")))


def test_objects_of_one_pixel_of_the_whole_frame_none_and_all_gone(follower):
    good = frame("good")
    track = follower.start(SIZE, 2)
    result = track.step(good)
    check(track, result)
    assert not result.ids.any(), "an empty memory finds nothing"
    one = np.zeros(SIZE, np.uint8)
    one[33, 41] = 5
    result = track.step(good, one)
    check(track, result)
    assert result.ids[33, 41] == 5 and track.objects == {5: 0}
    check(track, track.step(good))
    result = track.step(good, np.full(SIZE, 7, np.uint8))
    check(track, result)
    assert (result.ids == 7).all()
    check(track, track.step(good))
    result = track.step(good, remove=(5, 7))
    check(track, result)
    assert not result.ids.any() and not track.objects
    for _ in range(3):
        result = track.step(good)
        check(track, result)
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
    track = tracker.Tracker(model, {}, buckets=(2,), with_prob=True).start(frames.shape[1:3], 1)
    given = np.where(ids[0] == 3, ids[0], 0).astype(np.uint8)
    for index, image in enumerate(frames):
        result = track.step(image, given if index == 0 else None)
        check(track, result)
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
    follower = tracker.Tracker(coloured.make_model(), {}, buckets=(1,))
    track = follower.start(frames.shape[1:3], 1)
    given = np.where(ids[0] == 3, ids[0], 0).astype(np.uint8)
    track.step(frames[0], given)
    track.step(frames[1])
    empty = np.full_like(frames[0], 40)
    for _ in range(500):
        result = track.step(empty)
    check(track, result)
    assert np.sum(result.ids > 0) < 0.1 * result.ids.size
    result = track.step(frames[1])
    check(track, result)
    assert coloured.iou(result.ids == 3, ids[1] == 3) > 0.5


def test_64_objects_at_once():
    rng = np.random.default_rng(0)
    ids = np.kron(np.arange(1, 65, dtype=np.uint8).reshape(8, 8), np.ones((8, 8), np.uint8))
    image = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    track = tracker.Tracker(coloured.make_model(), {}, with_prob=True).start(ids.shape, 64)
    check(track, track.step(image, ids))
    result = track.step(image)
    check(track, result)
    assert track.capacity == 64 and np.mean(result.ids == ids) > 0.9


@pytest.mark.parametrize("bad", [np.nan, 0.5])
def test_the_api_takes_no_float_frames(bad):
    seg = vos_jax.Segmenter(coloured.make_model(), {})
    with pytest.raises(errors.VosError, match="uint8 RGB"):
        seg.step(np.full((*SIZE, 3), bad, np.float32))
    assert seg.frame_index == 0


def test_four_segmenters_in_threads_give_what_each_gives_alone():
    videos = []
    for seed in range(4):
        frames, ids = coloured.make_video(length=8)
        noise = np.random.default_rng(seed).integers(0, 40, frames.shape, dtype=np.uint8)
        videos.append((np.minimum(frames, 215) + noise, np.where(ids[0] == 3, 3, 0).astype(np.uint8)))
    segmenters = [vos_jax.Segmenter(coloured.make_model(), {}, buckets=(1,)) for _ in videos]

    def masks_of(number: int) -> np.ndarray:
        frames, first = videos[number]
        return np.stack(list(segmenters[number].track(frames, {0: first})))

    alone = [masks_of(number) for number in range(4)]
    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            together = list(pool.map(masks_of, range(4)))
        for expected, found in zip(alone, together, strict=True):
            np.testing.assert_array_equal(expected, found)
