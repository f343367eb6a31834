"""Views: sizes, mirrors, and merging on probabilities at the frames' own size."""

import numpy as np
import pytest

from tests.inference.coloured import make_engine, make_video
from vos_jax import cli, config, errors
from vos_jax.inference import session as session_lib
from vos_jax.inference import session_file, view


def run(engine, frames, prompts):
    return list(session_lib.Session(engine).run(frames, prompts, soft=True))


def iou(a, b):
    return np.sum(a & b) / np.sum(a | b)


def test_several_equal_views_are_one_view():
    frames, ids = make_video()
    given = {0: ids[0], 2: np.where(ids[2] == 7, 7, 0).astype(np.uint8)}
    plain = run(make_engine(), frames, given)
    for a, b in zip(plain, run(make_engine(scales=(1.0, 1.0)), frames, given), strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        assert a.presence == b.presence


def test_all_views_are_saved_and_go_on_bit_for_bit(tmp_path):
    frames, ids = make_video()
    engine = make_engine(scales=(1.0, 1.5), flip=True)
    whole = run(engine, frames, {0: ids[0]})
    session = session_lib.Session(engine)
    list(session.run(frames[:3], {0: ids[0]}))
    session_file.save(tmp_path / "state", session)
    resumed = session_file.load(tmp_path / "state", engine)
    for a, b in zip(whole[3:], resumed.run(frames[3:], soft=True), strict=True):
        np.testing.assert_array_equal(a.prob, b.prob)
    with pytest.raises(errors.VosError, match="more views than this model's 1; other settings"):
        session_file.load(tmp_path / "state", make_engine())


def test_a_mirrored_video_gives_the_mirrored_masks():
    """Left and right are alike to the two views together; only float rounding may differ."""
    frames, ids = make_video((64, 96))
    both = make_engine(flip=True)
    straight = run(both, frames, {0: ids[0]})
    mirrored = run(both, frames[:, :, ::-1], {0: ids[0][:, ::-1]})
    for a, b in zip(straight, mirrored, strict=True):
        np.testing.assert_allclose(a.prob, b.prob[:, :, ::-1], atol=1e-5)
        assert a.presence == pytest.approx(b.presence, abs=1e-5)


@pytest.mark.parametrize("size", [(101, 143), (143, 101)], ids=["odd", "portrait"])
def test_inferred_small_masks_come_out_at_the_frames_size(size):
    frames, ids = make_video(size)
    merged = make_engine(max_size=64, scales=(0.75, 1.25), flip=True)
    small = {(48, 68), (80, 113), (68, 48), (113, 80)}
    assert {seen.size for seen in merged.views(size)} <= small
    for t, result in enumerate(run(merged, frames, {0: ids[0], 2: ids[2]})):
        assert result.ids.shape == size and result.prob.shape[1:] == size
        np.testing.assert_allclose(result.prob.sum(0), 1.0, atol=1e-5)
        for object_id in set(np.unique(ids[t])) - {0}:
            assert iou(result.ids == object_id, ids[t] == object_id) > 0.6, (t, object_id)
        if t in (0, 2):
            np.testing.assert_array_equal(result.ids, ids[t], err_msg="given masks come back to the pixel")
        else:
            best = np.array([0, *result.presence])[np.argmax(result.prob, axis=0)]
            np.testing.assert_array_equal(result.ids, best, err_msg="resized, then argmax")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"inference.scales": (0.0,)}, "inference.scales is"),
        ({"inference.scales": ()}, "inference.scales is empty"),
        ({"inference.max_size": -1}, "inference.max_size is -1"),
    ],
)
def test_impossible_views_are_refused_by_name(change, named):
    with pytest.raises(errors.VosError, match=named):
        config.replace(config.default(), change)


def test_wrong_options_are_refused_by_name():
    with pytest.raises(errors.VosError, match="--scales a: takes numbers"):
        cli.parse_scales("a")
    changes = {
        "inference.max_size": 20,
        "inference.scales": cli.parse_scales("0.5, 1"),
        "inference.flip": True,
    }
    inference = config.replace(config.default(), changes).inference
    with pytest.raises(errors.VosError, match="854x480 would be segmented at 18x10"):
        view.make_views((480, 854), inference)
