"""The Python API, on a model that follows colours; its doctest runs the real training-free one."""

import doctest
import subprocess
import sys

import numpy as np
import pytest

import vos_jax
from tests.inference.coloured import iou, make_engine, make_model, make_video
from vos_jax import Prompt, Session, api, errors
from vos_jax.inference import session as session_lib
from vos_jax.inference import session_file
from vos_jax.models import config as model_config
from vos_jax.models.backbones import pretrained


@pytest.fixture(scope="module")
def engine():
    """One engine for all tests: sessions share what is compiled."""
    return make_engine(editable=True)


def only(ids, *objects):
    return np.where(np.isin(ids, objects), ids, 0).astype(np.uint8)


def test_the_examples_in_the_docstring_run():
    found = doctest.testmod(session_lib)
    assert found.attempted > 10 and found.failed == 0


def test_importing_the_package_imports_no_jax():
    code = "import sys, vos_jax; assert not {'jax', 'numpy', 'flax'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_run_equals_step(engine):
    frames, ids = make_video()
    first, second = only(ids[0], 3), only(ids[2], 7)
    session = Session(engine)
    run = list(session.run(iter(frames), {0: first, 2: second}))
    stepping = Session(engine)
    stepped = [stepping.step(f, {0: first, 2: second}.get(t)) for t, f in enumerate(frames)]
    np.testing.assert_array_equal([x.ids for x in run], [x.ids for x in stepped])
    assert [x.index for x in run] == list(range(6)) and session.result is run[-1]
    assert iou(run[5].ids == 7, ids[5] == 7) > 0.7 and session.objects == (3, 7) and session.index == 6
    assert set(session.result.presence) == {3, 7}


def test_probabilities_sum_to_one_and_decide_the_ids(engine):
    frames, ids = make_video()
    session = Session(engine)
    *_, last = session.run(frames, {0: only(ids[0], 3), 2: only(ids[2], 7)})
    probs = session.probabilities()
    stacked = np.stack(list(probs.values()))
    assert list(probs) == [0, 3, 7] and stacked.shape == (3, *frames.shape[1:3])
    np.testing.assert_allclose(stacked.sum(axis=0), 1.0, atol=1e-5)
    np.testing.assert_array_equal(np.array(list(probs))[stacked.argmax(axis=0)], last.ids)


def test_an_edit_leaves_no_trace_of_what_it_replaced(engine):
    """A wrong frame that is corrected at once ends in the same state as one given right from the start."""
    frames, ids = make_video()
    wrong = np.roll(only(ids[0], 3), 20, axis=0)
    session = Session(engine)
    session.step(frames[0], only(ids[0], 3))
    session.step(frames[1], wrong)
    session.edit(only(ids[1], 3))
    session.edit((ids[2] == 7) * np.uint8(9))
    session.edit(ids[0] == 3)
    session.edit(only(ids[1], 3))
    assert set(session.objects) == {3, 9, 1} and session.index == 2
    session.edit(Prompt(remove={9, 1}))
    edited = [session.step(f).ids for f in frames[2:]]
    session = Session(engine)
    session.step(frames[0], only(ids[0], 3))
    session.step(frames[1], only(ids[1], 3))
    np.testing.assert_array_equal(edited, [session.step(f).ids for f in frames[2:]])
    assert iou(edited[-1] == 3, ids[5] == 3) > 0.7


def test_removed_objects_stay_away_and_their_ids_are_free_again(engine):
    frames, ids = make_video()
    session = Session(engine)
    session.step(frames[2], ids[2])
    session.step(frames[3])
    assert np.unique(session.edit(Prompt(remove={3})).ids).tolist() == [0, 7]
    assert session.objects == (7,) and 3 not in np.unique(session.step(frames[4]).ids)
    back = session.edit(only(ids[4], 3)).ids
    np.testing.assert_array_equal(back == 3, ids[4] == 3)
    assert session.objects == (7, 3)


def test_a_box_is_a_prompt(engine):
    frames, ids = make_video()
    session = Session(engine, prompts={0: Prompt(boxes={4: (6, 6, 26, 26)})})
    found = session.step(frames[0], Prompt(boxes={4: (6, 6, 26, 26)}))
    assert iou(found.ids == 4, ids[0] == 3) > 0.9 and session.objects == (4,)
    half = only(ids[0], 3)
    half[:, 16:] = 0
    both = session.edit(Prompt(half, boxes={4: (26, 26, 6, 6)}))
    np.testing.assert_array_equal(both.ids == 3, half == 3, err_msg="a mask counts more than a box")


def test_a_saved_session_goes_on_bit_for_bit_with_another_engine(engine, tmp_path):
    frames, ids = make_video()
    session = Session(engine)
    list(session.run(frames[:3], {0: only(ids[0], 3), 2: only(ids[2], 7)}))
    probs = session.probabilities()
    session_file.save(tmp_path / "state.safetensors", session)
    through = [session.step(f).ids for f in frames[3:]]
    other = session_file.load(tmp_path / "state.safetensors", make_engine(editable=True))
    assert other.objects == (3, 7) and other.index == 3
    for i, p in other.probabilities().items():
        np.testing.assert_array_equal(p, probs[i])
    with pytest.raises(errors.VosError, match="no frame to edit"):
        other.edit(only(ids[2], 7))
    np.testing.assert_array_equal(through, [other.step(f).ids for f in frames[3:]])
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_snapshot_of_an_editable_engine_can_be_gone_back_to(engine):
    frames, ids = make_video()
    session = Session(engine)
    list(session.run(frames[:3], {0: only(ids[0], 3)}))
    snapshot = session.snapshot()
    through = [session.step(f).ids for f in frames[3:]]
    again = Session.restore(engine, snapshot)
    np.testing.assert_array_equal(through, [again.step(f).ids for f in frames[3:]])


def test_wrong_states_are_refused(engine, tmp_path):
    frames, ids = make_video()
    path = tmp_path / "state.safetensors"
    session = Session(engine)
    with pytest.raises(errors.VosError, match="there is no state yet"):
        session_file.save(path, session)
    session.step(frames[0], only(ids[0], 3))
    session_file.save(path, session)
    whole = path.read_bytes()
    with pytest.raises(errors.VosError, match="other settings"):
        session_file.load(path, make_engine(make_model(capacity=5)))
    with pytest.raises(errors.VosError, match="other weights"):
        session_file.load(path, make_engine(params={"kernel": np.ones(3)}))
    for data, match in ((whole[:-9], "not a complete"), (b"", "not a complete"), (None, "No such file")):
        path.write_bytes(data) if data is not None else path.unlink()
        with pytest.raises(errors.VosError, match=match):
            session_file.load(path, engine)
    with pytest.raises(errors.VosError, match="not a state saved by vos_jax"):
        session_file.load(pretrained.WEIGHTS / "efficientnet_lite0.safetensors", engine)


def test_mistakes_are_one_line_and_leave_the_session_as_it_was(engine):
    frames, ids = make_video()
    session = Session(engine)
    for call, match in (
        (lambda: session.edit(ids[0]), "no frame to edit"),
        (lambda: session.probabilities(), "no frame was segmented"),
        (lambda: session.run(frames, {0: np.zeros_like(ids[0])}), "no prompt holds an object"),
        (lambda: session.run(frames), "no prompt holds an object"),
        (lambda: session.step(frames[0].astype(float)), "frame 0 is float64 .50, 70, 3.; frames are uint8"),
        (lambda: session.step(frames[0][..., 0]), "frames are uint8 RGB"),
        (lambda: session.step(frames[0], np.full((50, 70), 255)), "ids from 255 to 255; ids are 0 to 254"),
        (lambda: session.step(frames[0], ids[0] / 2), "the mask for frame 0 is float64"),
        (lambda: Prompt(boxes={255: (0, 0, 9, 9)}), "object id 255: ids are 1 to 254"),
    ):
        with pytest.raises(errors.VosError, match=match) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert session.index == 0 and session.size is None
    session.step(frames[0], only(ids[0], 3))
    for call, match in (
        (lambda: session.edit(np.ones((9, 9), bool)), "mask for frame 0 is 9x9, the frame is 70x50"),
        (lambda: session.edit(np.zeros((50, 70), np.uint8)), "the prompt is empty"),
        (lambda: session.edit(Prompt(remove={4})), "object 4 cannot be removed; the objects are .3."),
        (lambda: session.step(frames[1][:-1]), "frame 1 is 70x49"),
        (lambda: session.step(frames[1], Prompt(boxes={1: (0, 0, 2, 2)})), "the box is too small"),
    ):
        with pytest.raises(errors.VosError, match=match):
            call()
    assert session.objects == (3,) and session.index == 1
    assert iou(session.step(frames[1]).ids == 3, ids[1] == 3) > 0.7
    plain = Session(make_engine())
    plain.step(frames[0], ids[0])
    with pytest.raises(errors.VosError, match="make it with editable=True"):
        plain.edit(ids[0])


def test_models_come_by_name_or_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
    for name, match in (
        ("resnet50", "convert resnet50 .*train.py .*variant=resnet50.*checkpoint='resnet50.safetensors'"),
        ("lite9", "no model 'lite9'; there are lite0, resnet50, .*training_free"),
    ):
        with pytest.raises(errors.VosError, match=match):
            vos_jax.load(name)
    with pytest.raises(errors.VosError, match="no checkpoint at nowhere"):
        vos_jax.load("lite0", checkpoint="nowhere")
    with pytest.raises(errors.VosError, match="takes no checkpoint"):
        vos_jax.load("training_free", checkpoint="x")
    loaded = []
    monkeypatch.setattr(api.weights, "load_model", lambda *a: loaded.append(a) or (make_model(), {}, "x"))
    (tmp_path / "lite0.safetensors").write_bytes(b"weights")
    vos_jax.load("lite0", overrides=["model.memory.every=3", "model.dtype=bfloat16"])
    config, source = loaded[0]
    assert source == str(tmp_path / "lite0.safetensors") and config.memory.every == 3
    assert config.dtype == "bfloat16" and config.variant in model_config.VARIANTS
