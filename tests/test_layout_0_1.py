"""benchmarks.layout_0_1: what was made with version 0.1 goes on, every number unchanged."""

import functools

import jax
import numpy as np
import optax
import pytest
import safetensors.numpy
from flax import traverse_util

from benchmarks import layout_0_1
from tests import tiny
from vos_jax import errors
from vos_jax.models import config as model_config
from vos_jax.models import weights
from vos_jax.train import checkpoints, state


@pytest.fixture(scope="module")
def params():
    """Parameters of today's layout in which no two numbers are equal."""
    init = functools.partial(tiny.model().init, datasets=layout_0_1.DATASETS)
    leaves, treedef = jax.tree.flatten(jax.eval_shape(init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return treedef.unflatten([rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])


def test_weights_are_refused_until_they_are_repacked(params, tmp_path, monkeypatch):
    monkeypatch.setitem(model_config.VARIANTS, "tiny", tiny.VARIANT)
    model = tiny.model(variant="tiny")
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    flat = traverse_util.flatten_dict(layout_0_1.to_0_1(params), sep="/")
    assert flat["lambda_logit"].shape == (4,) and not any(key.startswith("matcher") for key in flat)
    safetensors.numpy.save_file({key: np.array(x) for key, x in flat.items()}, old, {"variant": "tiny"})
    with pytest.raises(errors.VosError, match="before version 0.2.*benchmarks.layout_0_1 .*old.safetensors"):
        weights.load_params(model, old)
    layout_0_1.repack(old, new)
    jax.tree.map(np.testing.assert_array_equal, weights.load_params(model, new), params)
    with pytest.raises(errors.VosError, match="new.safetensors: exists"):
        layout_0_1.repack(old, new)
    with pytest.raises(errors.VosError, match="not of version 0.1"):
        layout_0_1.repack(new, tmp_path / "third.safetensors")


@pytest.mark.slow
def test_a_training_run_is_refused_and_its_state_comes_through(params, tmp_path):
    now = state.init_train_state(params, optax.adam(1e-3), jax.random.key(0))
    old = layout_0_1._map_params(layout_0_1.to_0_1, now)
    config = checkpoints.CheckpointConfig()
    with checkpoints.Checkpoints(tmp_path, config) as saved:
        saved.save(3, old, {"step": 3}, record={})
    with checkpoints.Checkpoints(tmp_path, config) as saved:
        with pytest.raises(errors.VosError, match="started before version 0.2.*benchmarks.layout_0_1"):
            saved.restore(now)
        restored = saved.restore(old)
    assert restored is not None and checkpoints.steps(tmp_path) == [3], "nothing was moved aside"
    again = layout_0_1._map_params(layout_0_1.from_0_1, restored.state)
    assert jax.tree.structure(again) == jax.tree.structure(now)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(now), strict=True):
        if not jax.numpy.issubdtype(b.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)
