"""At what size frames are followed, and the way there and back."""

import numpy as np
import pytest

from tests.inference.coloured import iou, make_model, make_video
from vos_jax import errors
from vos_jax.inference import resizing, segmenter, snapshots, tracker
from vos_jax.models import state as state_lib


@pytest.mark.parametrize(
    ("size", "limits", "seen"),
    [
        ((480, 854), (480, 0), (480, 854)),
        ((360, 640), (480, 0), (480, 853)),
        ((640, 360), (480, 0), (853, 480)),
        ((240, 320), (480, 0), (480, 640)),
        ((100, 150), (480, 0), (300, 450)),  # threefold at most
        ((1080, 1920), (480, 720), (720, 1280)),
        ((240, 320), (480, 360), (360, 480)),  # the largest size has the last word
        ((240, 320), (0, 0), (240, 320)),
        ((5, 40), (480, 0), (15, 120)),  # what is tiny already is not refused for being enlarged
    ],
)
def test_sizes_at_which_frames_are_followed(size, limits, seen):
    assert resizing.Sizing(*limits).seen(size) == seen


def test_frames_are_not_shrunk_to_nothing():
    with pytest.raises(errors.VosError, match="854x480 would be followed at 14x8"):
        resizing.Sizing(max_size=8).seen((480, 854))


SMALL, LARGE = resizing.Sizing(min_size=100), resizing.Sizing(max_size=36)


@pytest.mark.parametrize("sizing", [SMALL, LARGE], ids=["enlarged", "shrunk"])
def test_masks_have_the_frames_size_whatever_the_model_sees(sizing):
    frames, ids = make_video((50, 71))
    follower = tracker.Tracker(make_model(), {}, with_prob=True, sizing=sizing)
    given = {0: ids[0], 2: np.where(ids[2] == 7, 7, 0).astype(np.uint8)}
    for t, result in enumerate(follower.track(frames, given)):
        assert result.ids.shape == (50, 71) and result.prob.shape == (1 + len(result.presence), 50, 71)
        np.testing.assert_allclose(result.prob.sum(axis=0), 1.0, atol=1e-5)
        if t not in given:
            best = np.array([0, *result.presence])[np.argmax(result.prob, axis=0)]
            np.testing.assert_array_equal(result.ids, best, err_msg="resized, then argmax")
        for object_id in set(np.unique(ids[t])) - {0}:
            assert iou(result.ids == object_id, ids[t] == object_id) > 0.5, (t, object_id)
    assert follower.compilations == 1


def test_masks_are_the_same_whether_probabilities_are_asked_for():
    frames, ids = make_video()
    hard, soft = (
        tracker.Tracker(make_model(), {}, sizing=SMALL, with_prob=wanted) for wanted in (False, True)
    )
    for a, b in zip(hard.track(frames, {0: ids[0]}), soft.track(frames, {0: ids[0]}), strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        assert a.prob is None


def test_the_model_sees_the_larger_frame_and_its_smooth_mask():
    frames, ids = make_video((50, 70))
    track = tracker.Tracker(make_model(), {}, sizing=SMALL).start((50, 70))
    padded, given = track.prepare(frames[0], ids[0])
    assert track.seen == (100, 140)
    assert padded.shape[:2] == given.prob.shape[1:] == state_lib.padded_size((100, 140))
    assert float(given.prob[0].sum()) == 4 * np.sum(ids[0] == 3)


def test_a_small_video_goes_on_from_its_saved_state(tmp_path):
    frames, ids = make_video()
    whole = segmenter.Segmenter(make_model(), {}, sizing=SMALL)
    expected = list(whole.track(frames, {0: ids[0]}))
    assert whole.probabilities()[3].shape == (50, 70)
    broken = segmenter.Segmenter(make_model(), {}, sizing=SMALL)
    for t in range(3):
        broken.step(frames[t], ids[0] if t == 0 else None)
    broken.save(tmp_path / "state")
    other = segmenter.Segmenter(make_model(), {}, sizing=SMALL)
    other.load(tmp_path / "state")
    for t in range(3, len(frames)):
        np.testing.assert_array_equal(other.step(frames[t]), expected[t])
    plain = tracker.Tracker(make_model(), {})
    with pytest.raises(errors.VosError, match="other settings"):
        snapshots.load(tmp_path / "state", plain, snapshots.fingerprint(make_model(), {}))


def test_most_likely_is_the_argmax_of_resized_planes():
    planes = np.random.default_rng(0).random((4, 30, 40)).astype(np.float32)
    for size in ((30, 40), (45, 60), (15, 20)):
        resized = np.stack([resizing.resize_plane(plane, size) for plane in planes])
        np.testing.assert_array_equal(resizing.most_likely(planes, size), resized.argmax(axis=0))


def test_no_object_is_lost_when_ids_shrink():
    ids = np.zeros((40, 60), np.uint8)
    ids[:20, :30], ids[30, 50], ids[5, 5] = 1, 9, 200
    small = resizing.resize_ids(ids, (10, 15))
    assert set(np.unique(small)) == {0, 1, 9, 200}
    assert small[7, 12] == 9 and small[1, 1] == 200 and np.sum(small == 1) == 5 * 7 - 1
    np.testing.assert_array_equal(resizing.resize_ids(ids, (40, 60)), ids)
    assert set(np.unique(resizing.resize_ids(ids, (60, 90)))) == {0, 1, 9, 200}
