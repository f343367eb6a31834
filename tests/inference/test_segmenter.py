"""The Python API, on a model that follows colours; its doctest runs the real training-free one."""

import doctest
import subprocess
import sys

import numpy as np
import pytest

import vos_jax
from tests.inference.coloured import iou, make_model, make_video
from vos_jax import errors
from vos_jax.inference import segmenter
from vos_jax.models import config as model_config
from vos_jax.models.backbones import pretrained


@pytest.fixture(scope="module")
def seg():
    """One segmenter for all tests: what is compiled is shared."""
    return vos_jax.Segmenter(make_model(), {})


def only(ids, *objects):
    return np.where(np.isin(ids, objects), ids, 0).astype(np.uint8)


def test_the_examples_in_the_docstring_run():
    found = doctest.testmod(segmenter)
    assert found.attempted > 10 and found.failed == 0


def test_importing_the_package_imports_no_jax():
    code = "import sys, vos_jax; assert not {'jax', 'numpy', 'flax'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_track_equals_step_and_forgets_the_video_before(seg):
    frames, ids = make_video()
    first, second = only(ids[0], 3), only(ids[2], 7)
    list(seg.track(frames[::-1].copy(), {0: only(ids[5], 7)}))
    tracked = list(seg.track(iter(frames), {0: first, 2: second}))
    seg.reset()
    stepped = [seg.step(f, {0: first, 2: second}.get(t)) for t, f in enumerate(frames)]
    np.testing.assert_array_equal(tracked, stepped)
    assert iou(tracked[5] == 7, ids[5] == 7) > 0.7 and seg.objects == (3, 7) and seg.frame_index == 6
    assert set(seg.presence) == {3, 7}


def test_probabilities_sum_to_one_and_decide_the_ids(seg):
    frames, ids = make_video()
    *_, last = seg.track(frames, {0: only(ids[0], 3), 2: only(ids[2], 7)})
    probs = seg.probabilities()
    stacked = np.stack(list(probs.values()))
    assert list(probs) == [0, 3, 7] and stacked.shape == (3, *frames.shape[1:3])
    np.testing.assert_allclose(stacked.sum(axis=0), 1.0, atol=1e-5)
    np.testing.assert_array_equal(np.array(list(probs))[stacked.argmax(axis=0)], last)


def test_an_edit_leaves_no_trace_of_what_it_replaced(seg):
    """A wrong frame that is corrected at once ends in the same state as one given right from the start."""
    frames, ids = make_video()
    wrong = np.roll(only(ids[0], 3), 20, axis=0)
    seg.reset()
    seg.step(frames[0], only(ids[0], 3))
    seg.step(frames[1], wrong)
    seg.correct(only(ids[1], 3))
    seg.add_object(ids[2] == 7, 9)
    seg.add_object(ids[0] == 3)
    seg.correct(only(ids[1], 3))
    assert set(seg.objects) == {3, 9, 1}, "the lowest free id is taken"
    seg.remove_object(9)
    seg.remove_object(1)
    edited = [seg.step(f) for f in frames[2:]]
    seg.reset()
    seg.step(frames[0], only(ids[0], 3))
    seg.step(frames[1], only(ids[1], 3))
    np.testing.assert_array_equal(edited, [seg.step(f) for f in frames[2:]])
    assert iou(edited[-1] == 3, ids[5] == 3) > 0.7


def test_removed_objects_stay_away_and_their_ids_are_free_again(seg):
    frames, ids = make_video()
    seg.reset()
    seg.step(frames[2], ids[2])
    seg.step(frames[3])
    assert np.unique(seg.remove_object(3)).tolist() == [0, 7]
    assert seg.objects == (7,) and 3 not in np.unique(seg.step(frames[4]))
    back = seg.add_object(ids[4] == 3, 3)
    np.testing.assert_array_equal(back == 3, ids[4] == 3)
    assert seg.objects == (7, 3)


def test_a_saved_state_goes_on_bit_for_bit_in_another_segmenter(seg, tmp_path):
    frames, ids = make_video()
    seg.reset()
    seg.step(frames[0], only(ids[0], 3))
    seg.step(frames[1])
    seg.step(frames[2], only(ids[2], 7))
    probs = seg.probabilities()
    seg.save(tmp_path / "state.safetensors")
    through = [seg.step(f) for f in frames[3:]]
    other = vos_jax.Segmenter(make_model(), {})
    other.load(tmp_path / "state.safetensors")
    assert other.objects == (3, 7) and other.frame_index == 3
    for i, p in other.probabilities().items():
        np.testing.assert_array_equal(p, probs[i])
    with pytest.raises(errors.VosError, match="no frame to edit"):
        other.correct(only(ids[2], 7))
    np.testing.assert_array_equal(through, [other.step(f) for f in frames[3:]])
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_wrong_states_are_refused_and_change_nothing(seg, tmp_path):
    frames, ids = make_video()
    path = tmp_path / "state.safetensors"
    seg.reset()
    with pytest.raises(errors.VosError, match="no state to save"):
        seg.save(path)
    seg.step(frames[0], only(ids[0], 3))
    seg.save(path)
    whole = path.read_bytes()
    with pytest.raises(errors.VosError, match="other settings"):
        vos_jax.Segmenter(make_model(capacity=5), {}).load(path)
    with pytest.raises(errors.VosError, match="other weights"):
        vos_jax.Segmenter(make_model(), {"kernel": np.ones(3)}).load(path)
    for data, match in ((whole[:-9], "not a whole"), (b"", "not a whole"), (None, "No such file")):
        path.write_bytes(data) if data is not None else path.unlink()
        with pytest.raises(errors.VosError, match=match):
            seg.load(path)
    with pytest.raises(errors.VosError, match="not a state saved by vos_jax"):
        seg.load(pretrained.WEIGHTS / "efficientnet_lite0.safetensors")
    assert seg.objects == (3,) and seg.frame_index == 1


def test_mistakes_are_one_line_and_leave_the_video_as_it_was(seg):
    frames, ids = make_video()
    seg.reset()
    for call, match in (
        (lambda: seg.correct(ids[0]), "object 3 is not followed .none is followed"),
        (lambda: seg.add_object(ids[0] > 0), "no frame to edit"),
        (lambda: seg.remove_object(3), "not followed"),
        (lambda: seg.probabilities(), "no frame"),
        (lambda: seg.track(frames, {0: np.zeros_like(ids[0])}), "no annotated frame holds an object"),
        (lambda: seg.step(frames[0].astype(float)), "frame 0 is float64 .50, 70, 3.; frames are uint8"),
        (lambda: seg.step(frames[0][..., 0]), "frames are uint8 RGB"),
        (lambda: seg.step(frames[0], np.full((50, 70), 255)), "ids from 255 to 255; ids are 0 to 254"),
        (lambda: seg.step(frames[0], ids[0] / 2), "is float64"),
    ):
        with pytest.raises(errors.VosError, match=match) as caught:
            call()
        assert "\n" not in str(caught.value)
    seg.step(frames[0], only(ids[0], 3))
    for call, match in (
        (lambda: seg.add_object(ids[2] == 7, 3), "object 3 is followed already"),
        (lambda: seg.add_object(ids[2] == 7, 255), "ids are 1 to 254"),
        (lambda: seg.add_object(ids[0] == 99, 4), "mask of object 4 is empty"),
        (lambda: seg.add_object(np.ones((9, 9), bool), 4), "mask is 9x9, the frame 70x50"),
        (lambda: seg.correct(np.zeros((50, 70), np.uint8)), "holds no object"),
        (lambda: seg.step(frames[1][:-1]), "frame 1 is 70x49"),
    ):
        with pytest.raises(errors.VosError, match=match):
            call()
    assert seg.objects == (3,) and seg.frame_index == 1
    assert iou(seg.step(frames[1]) == 3, ids[1] == 3) > 0.7


def test_models_come_by_name_or_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
    for name, match in (
        ("resnet50", "convert resnet50 .*train.py .*variant=resnet50.*checkpoint='resnet50.safetensors'"),
        ("lite9", "no model 'lite9'; there are lite0, resnet50, .*training_free"),
    ):
        with pytest.raises(errors.VosError, match=match):
            vos_jax.Segmenter.from_pretrained(name)
    with pytest.raises(errors.VosError, match="no checkpoint at nowhere"):
        vos_jax.Segmenter.from_pretrained("lite0", checkpoint="nowhere")
    with pytest.raises(errors.VosError, match="takes no checkpoint"):
        vos_jax.Segmenter.from_pretrained("training_free", checkpoint="x")
    loaded = []
    monkeypatch.setattr(
        segmenter.weights, "load_model", lambda *a: loaded.append(a) or (make_model(), {}, "x")
    )
    (tmp_path / "lite0.safetensors").write_bytes(b"weights")
    vos_jax.Segmenter.from_pretrained("lite0", overrides=["model.memory.every=3"], dtype="bfloat16")
    config, source = loaded[0]
    assert source == str(tmp_path / "lite0.safetensors") and config.memory.every == 3
    assert config.dtype == "bfloat16" and config.variant in model_config.VARIANTS
