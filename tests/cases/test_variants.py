"""Cases C22 and C23: the page's example keeps its rules, and mistakes in variants are one line."""

import functools
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import test_experiments, tiny
from tests.models import test_alignment
from vos_jax import errors, geometry
from vos_jax.models import backbones, templates, vos
from vos_jax.models import config as model_config
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib
from vos_jax.ops import masks
from vos_jax.train import losses


# ---------------------------------------------------------------- C22
def test_c22_the_example_keeps_the_rules_of_its_page():
    mutual = test_experiments.variables("mutual.py")["mutual"]
    test_alignment.test_locations_outside_the_object_do_not_count(mutual)
    test_alignment.test_degenerate_inputs_have_finite_scores_and_gradients(mutual)


def test_c22_the_gradient_at_zero_is_small():
    names = test_experiments.variables("mutual.py")
    zero, ones = jnp.zeros((9, 32)), jnp.ones(9)
    other = jnp.asarray(np.random.default_rng(0).normal(size=(9, 32)), jnp.float32)
    for case in ((zero, other), (other, zero), (zero, zero), (1e-7 * other, other)):
        gradients = jax.grad(lambda a, b: names["mutual"](a, ones, b, temperature=0.01)[0], (0, 1))(*case)
        assert max(float(jnp.abs(x).max()) for x in gradients) < 1000


@pytest.mark.parametrize(("name", "code"), [("mutual.py", 0), ("bad.py", 1)])
def test_c22_an_own_variant_is_held_to_the_rules_as_the_page_says(tmp_path, name, code):
    path = tmp_path / name
    path.write_text(test_experiments.example("mutual.py").replace("of_object, axis=0", "logits, axis=0"))
    if not code:
        path.write_text(test_experiments.example("mutual.py"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/models/test_alignment.py",
    ]
    command += ["-k", "outside and function or outside and mutual or outside and name5"]
    root = test_experiments.PAGE.parents[1]
    environment = {**os.environ, "VOS_JAX_VARIANT": str(path), "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout[-2000:]
    assert "VOS_JAX_VARIANT=mutual.py python -m pytest" in test_experiments.PAGE.read_text()


# ---------------------------------------------------------------- C23
SIZE = (64, 64)


def trace(**changes):
    """Traces a step of the tiny model with a variant; nothing is compiled."""
    changes = {"matching": "greedy", "proposals": tiny.NO_NETWORK, **changes}
    model = vos.VOS(config=model_config.dataclasses.replace(tiny.CONFIG, **changes))
    frame = jnp.zeros((*SIZE, 3), jnp.uint8)

    def run():
        params = model.init(jax.random.key(0))
        state = state_lib.init_state(model, 2, SIZE, SIZE)
        return step_lib.step(model, params, state, frame, state_lib.no_prompt(2, SIZE))

    return jax.eval_shape(run)


def given_template(context, *, size, **changes):
    cells = size * size
    found = {"vectors": (cells, 8), "weights": (cells,), "box": (4,)} | changes
    return templates.Template(**{name: jnp.zeros(shape) for name, shape in found.items()})


def raising(*_, **__):
    return {}["nothing"]


class OtherBackbone(nn.Module):
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, frame):
        return nn.Conv(4, (3, 3))(frame.astype(jnp.float32))


def no_null(cost, null_cost, object_valid, proposal_valid, *, config):
    return jnp.zeros_like(cost)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"matching": no_null},
            r"model.matching: the function returned assignment \[N, P \+ 1\] \[1, 1\]; it must be \[1, 2\]",
        ),
        ({"matching": lambda *_, config: None}, "model.matching: .*NoneType"),
        ({"matching": lambda *_, config: (1, 2)}, "model.matching: .*tuple"),
        ({"matching": raising}, "model.matching: .*test_variants.py: line .*KeyError: 'nothing'"),
        ({"matching": lambda cost: cost}, "model.matching: .*TypeError: .*argument"),
        (
            {"template": lambda context, *, size: context.read_embed},
            "model.template: .*not a templates.Template",
        ),
        ({"template": lambda context: None}, "model.template: .*unexpected keyword argument 'size'"),
        ({"template": raising}, "model.template: .*KeyError"),
        (
            {"template": functools.partial(given_template, vectors=(3, 8))},
            r"model.template: the function returned vectors \[S, Ce\] \[3, 8\]; it must be \[25, 8\]",
        ),
        ({"template": functools.partial(given_template, weights=(25, 1))}, r"weights \[S\] \[25, 1\]"),
        ({"template": functools.partial(given_template, box=(2, 2))}, r"box \[4\] \[2, 2\]"),
        ({"alignment": raising}, "model.alignment: .*KeyError"),
        ({"alignment": lambda t, w, p: t @ p}, "model.alignment: .*TypeError"),
        ({"alignment": lambda t, w, p: t}, "must return"),
        ({"backbone": OtherBackbone}, "model.backbone: the module returned a .*, not backbones.Features"),
        ({"backbone": raising}, "model.backbone: .*KeyError"),
    ],
)
def test_c23_a_mistake_in_a_variant_is_one_line(changes, message):
    with pytest.raises(errors.VosError, match=message) as found:
        trace(**changes)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("changes", [{"affinity": raising}, {"weight": raising}, {"affinity": lambda q: q}])
def test_c23_in_the_memory_read(changes):
    read = model_config.dataclasses.replace(tiny.CONFIG.read, **changes)
    with pytest.raises(errors.VosError, match=f"model.read.{next(iter(changes))}: "):
        trace(read=read)


def test_c23_in_a_loss_term():
    frame = losses.PredictedFrame(None, None, None, None, out=None)
    with pytest.raises(errors.VosError, match="train.loss.terms.mine: .*KeyError"):
        losses._checked("mine", raising, frame)


def test_c23_right_variants_are_taken():
    assert trace(template=given_template)[1].prob.shape == (
        3,
        *(side // geometry.MASK_STRIDE for side in SIZE),
    )
    assert backbones.channels("efficientnet_lite0")["c2"] == 24 and masks
