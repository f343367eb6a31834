"""RefineNet learns from the frame whose masks are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.inference import coloured
from vos_jax import api, errors
from vos_jax import config as configs
from vos_jax.inference import adaptation, session_file
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import session as session_lib
from vos_jax.models import memory, training_free

SIZE = (64, 64)
CONFIG = adaptation.AdaptationConfig(steps=40, learning_rate=1e-2, batch=1, length=2, crop=64, share=1.0)
# Room for a correction beside the first frame.
MODEL = tiny.model(proposals=tiny.NO_NETWORK, memory=memory.MemoryConfig(capacity=4, every=2))


@pytest.fixture(scope="module")
def params():
    return tiny.params(proposals=tiny.NO_NETWORK)


@pytest.fixture(scope="module")
def adapter():
    return adaptation.Adapter(MODEL, CONFIG)


STEPS = {}
"""Compiled steps, by shapes, shared by engines with equal settings."""


def make_engine(params, adapter, **settings):
    made = coloured.make_engine(MODEL, params, object_buckets=(2, 3), **settings)
    made._adapter = adapter
    if not settings:
        made._steps = STEPS
    return made


def segment(engine, frames, prompts):
    return [result.ids for result in session_lib.Session(engine).run(iter(frames), prompts)]


def j(found, ids):
    pairs = [(found == i, ids == i) for i in (1, 2)]
    return float(np.mean([np.sum(a & b) / np.sum(a | b) for a, b in pairs]))


@pytest.mark.slow
def test_later_masks_come_nearer_to_the_truth_and_all_videos_share_a_program(params):
    adapter = adaptation.Adapter(MODEL, CONFIG)
    plain, adapted = make_engine(params, None), make_engine(params, adapter)
    frames, ids = tiny.video(3, SIZE)
    before, after = (segment(engine, frames, {0: ids[0]}) for engine in (plain, adapted))
    gained = [j(now, truth) - j(then, truth) for then, now, truth in zip(before, after, ids, strict=True)]
    assert gained[0] == 0.0 and min(gained[1:]) > 0.2, gained
    assert plain.seconds["adaptation"] == 0.0 < adapted.seconds["adaptation"]
    assert adapted.seconds["compile"] == adapter.compile_seconds > 0.0

    wide, wide_ids = tiny.video(2, (64, 96), seed=1)
    wide_ids[:, :8, 80:] = 3
    segment(adapted, wide, {0: wide_ids[0]})
    assert adapter.compilations == 1
    np.testing.assert_array_equal(segment(adapted, frames, {0: ids[0]}), after, "one video marks another")


def test_refinenet_alone_learns_and_every_later_mask_teaches(params, adapter):
    frames, ids = tiny.video(3, SIZE)
    session = session_lib.Session(make_engine(params, adapter), prompts={0: ids[0]})
    learned = []
    for frame, given in zip(frames, (ids[0], None, ids[2]), strict=True):
        session.step(frame, given)
        learned.append(session.snapshot().adapted)
    assert set(learned[0]) == {"refine"} and learned[1] is learned[0]
    for old, new in ((params, learned[0]), (learned[0], learned[2])):
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), old["refine"], new["refine"])
        assert min(jax.tree.leaves(moved)) > 0, moved
    same = jax.tree.map(lambda a, b: a is b, session.params, {**session.engine.params, **learned[2]})
    assert all(jax.tree.leaves(same))


def test_a_frame_that_has_nothing_to_teach_teaches_nothing(params, adapter):
    frames, ids = tiny.video(1, SIZE)
    speck = np.zeros_like(ids[0])
    speck[30, 30] = 1
    assert adapter(params, {}, frames[0], speck) == {}
    known = adapter(params, {}, frames[0], ids[0])
    assert adapter(params, known, frames[0], speck) is known
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), {"refine": params["refine"]})
    assert adapter(params, broken, frames[0], ids[0]) is broken


@pytest.mark.slow
def test_a_session_goes_on_from_disk_with_what_it_learned(params, adapter, tmp_path):
    frames, ids = tiny.video(4, SIZE)
    engine = make_engine(params, adapter, editable=True)
    whole = segment(engine, frames, {0: ids[0]})
    session = session_lib.Session(engine)
    list(session.run(frames[:2], {0: ids[0]}))
    session_file.save(tmp_path / "state", session)
    again = session_file.load(tmp_path / "state", make_engine(params, None))
    jax.tree.map(np.testing.assert_array_equal, again.snapshot().adapted, session.snapshot().adapted)
    np.testing.assert_array_equal([again.step(frame).ids for frame in frames[2:]], whole[2:])

    other = tiny.model(proposals=tiny.NO_NETWORK, memory=MODEL.config.memory, refine_channels=(8, 8, 8))
    narrow = coloured.make_engine(other, other.init(jax.random.key(0)))
    narrow.fingerprint = engine.fingerprint
    with pytest.raises(errors.VosError, match=r"learned\['refine'\].* this model needs"):
        session_file.load(tmp_path / "state", narrow)
    for bare in (tuple(params.values()), {name: leaf for name, leaf in params.items() if name != "refine"}):
        other = coloured.make_engine(MODEL, bare)
        other.fingerprint = engine.fingerprint
        with pytest.raises(errors.VosError, match=r"learned\['refine'\].* is no parameter of this model"):
            session_file.load(tmp_path / "state", other)


class Counting:
    """An adapter that notes what it is shown, and learns nothing but how often."""

    compile_seconds = 0.0

    def __init__(self):
        self.shown = []

    def __call__(self, params, learned, frame, ids):
        self.shown.append((frame, ids))
        return {"refine": params["refine"]}


@pytest.mark.slow
def test_views_share_what_the_first_one_learns_at_the_size_of_the_video(params):
    counting = Counting()
    engine = make_engine(params, counting, scales=(0.5, 1.0), flip=True)
    frames, ids = tiny.video(2, SIZE)
    segment(engine, frames, {0: ids[0]})
    assert len(counting.shown) == 1
    np.testing.assert_array_equal(counting.shown[0][0], frames[0])
    np.testing.assert_array_equal(counting.shown[0][1], ids[0])


def test_edits_of_a_frame_are_learned_from_what_was_known_before_it(params):
    counting = Counting()
    session = session_lib.Session(make_engine(params, counting, editable=True))
    frames, ids = tiny.video(2, SIZE)
    session.step(frames[0], np.where(ids[0] == 1, ids[0], 0))
    session.edit(np.where(ids[0] == 2, ids[0], 0))
    session.step(frames[1])
    assert [sorted(np.unique(shown).tolist()) for _, shown in counting.shown] == [[0, 1], [0, 1, 2]]


def test_engines_with_a_refinenet_adapt(params):
    config = configs.load("default", ["inference.adaptation.steps=3"])
    free = training_free.TrainingFree(config=config.model)
    adapting = engine_lib.Engine(MODEL, params, config.inference)
    assert adapting.adapts
    assert not engine_lib.Engine(tiny.model(refine=False), params, config.inference).adapts
    assert not engine_lib.Engine(free, params, config.inference).adapts
    plain = engine_lib.Engine(MODEL, params, configs.load("default").inference)
    assert not plain.adapts
    for setting, told in (
        ("crop=8", "crop is 8; it must be at least 64"),
        ("crop=100", "crop is 100; it must be a multiple of 32"),
        ("share=0", "share is 0.0; it must be above 0 and at most 1"),
        ("length=1", "length is 1; it must be at least 2"),
        ("learning_rate=0", "learning_rate is 0.0; it must be above 0"),
    ):
        wrong = [f"inference.adaptation.{part}" for part in ("steps=3", setting)]
        with pytest.raises(errors.VosError, match=f"inference.adaptation.{told}"):
            configs.load("default", wrong)
    with pytest.raises(errors.VosError, match="inference.adaptation.steps is -1; it must be at least 0"):
        configs.replace(config, {"inference.adaptation.steps": -1})
    api.check_adapt(adapting, 3)
    api.check_adapt(plain, None)
    with pytest.raises(errors.VosError, match="--adapt 3: .*--checkpoint none"):
        api.check_adapt(plain, 3)
