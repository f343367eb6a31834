"""Videos that the model sees at another size: masks have the size of the frames."""

import numpy as np
import pytest

from tests.inference.coloured import iou, make_engine, make_video
from vos_jax import config as configs
from vos_jax import errors, geometry
from vos_jax.inference import session as session_lib
from vos_jax.inference import session_file

SMALL, LARGE = {"min_size": 100}, {"max_size": 36}


@pytest.mark.parametrize("limits", [SMALL, LARGE], ids=["enlarged", "shrunk"])
def test_masks_have_the_frames_size_whatever_the_model_sees(limits):
    frames, ids = make_video((50, 71))
    engine = make_engine(**limits)
    given = {0: ids[0], 2: np.where(ids[2] == 7, 7, 0).astype(np.uint8)}
    for t, result in enumerate(session_lib.Session(engine).run(frames, given, soft=True)):
        assert result.ids.shape == (50, 71) and result.prob.shape == (1 + len(result.presence), 50, 71)
        np.testing.assert_allclose(result.prob.sum(axis=0), 1.0, atol=1e-5)
        if t not in given:
            best = np.array([0, *result.presence])[np.argmax(result.prob, axis=0)]
            np.testing.assert_array_equal(result.ids, best, err_msg="resized, then argmax")
        for object_id in set(np.unique(ids[t])) - {0}:
            assert iou(result.ids == object_id, ids[t] == object_id) > 0.5, (t, object_id)
    assert engine.compilations == 1


@pytest.mark.parametrize(
    "size, inside",
    [
        ((2160, 3840), (480, 853)),
        ((3840, 2160), (853, 480)),
        ((1080, 1920), (480, 853)),
        ((480, 854), (480, 854)),
        ((360, 640), (480, 853)),
    ],
)
def test_videos_of_every_size_are_segmented_at_480p(size, inside):
    config = configs.default().inference
    assert geometry.working_size(size, config.min_size, config.max_size) == inside


def test_masks_are_the_same_whether_probabilities_are_asked_for():
    frames, ids = make_video()
    engine = make_engine(**SMALL)
    hard, soft = (
        session_lib.Session(engine).run(frames, {0: ids[0]}, soft=wanted) for wanted in (False, True)
    )
    for a, b in zip(hard, soft, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        assert a.prob is None


def test_the_model_sees_the_larger_frame_and_its_smooth_mask():
    frames, ids = make_video((50, 70))
    session = session_lib.Session(make_engine(**SMALL), (50, 70))
    ((padded, prompt, _),) = session.prepare(frames[0], ids[0]).arrays
    assert session.views[0].size == (100, 140)
    assert padded.shape[:2] == prompt.mask.shape[1:] == geometry.padded_size((100, 140))
    assert float(prompt.mask[0].sum()) == 4 * np.sum(ids[0] == 3)


def test_a_small_video_goes_on_from_its_saved_state(tmp_path):
    frames, ids = make_video()
    engine = make_engine(**SMALL)
    whole = session_lib.Session(engine)
    expected = [result.ids for result in whole.run(frames, {0: ids[0]})]
    assert whole.probabilities()[3].shape == (50, 70)
    broken = session_lib.Session(engine)
    list(broken.run(frames[:3], {0: ids[0]}))
    session_file.save(tmp_path / "state", broken)
    other = session_file.load(tmp_path / "state", make_engine(**SMALL))
    np.testing.assert_array_equal([result.ids for result in other.run(frames[3:])], expected[3:])
    with pytest.raises(errors.VosError, match="other settings"):
        session_file.load(tmp_path / "state", make_engine())
