"""benchmarks/speed.py: the stages are the whole frame, and two runs can be compared."""

import json

import jax
import jax.numpy as jnp
import pytest

from benchmarks import speed, stages
from tests import tiny
from vos_jax import errors
from vos_jax.models import state as state_lib
from vos_jax.models import vos


def test_the_last_stage_is_the_whole_frame_and_every_part_can_run_alone():
    model = vos.VOS(config=tiny.CONFIG)
    size = (64, 96)
    params = jax.eval_shape(model.init, jax.random.key(0))
    state = jax.eval_shape(lambda: state_lib.init_state(model, 2, size, size))
    frame = jax.ShapeDtypeStruct((*size, 3), jnp.uint8)
    found = list(stages.of_frame(model, params, state, frame, jax.eval_shape))
    names = [stage.name for stage in found]
    assert names[0] == "backbone" and names[-1] == stages.WHOLE and "RefineNet" in names
    for stage in found:
        jax.eval_shape(stage.function, *stage.arguments)


def test_two_runs_are_compared_stage_by_stage(tmp_path):
    def write(name, ms):
        case = {"variant": "lite0", "objects": 1, "slots": 8, "stages": {"read": {"ms": ms, "iqr": 1.0}}}
        (tmp_path / name).write_text(json.dumps({"cases": [case]}))
        return tmp_path / name

    table = speed.compare(write("a.json", 80.0), write("b.json", 20.0))
    assert "| lite0 | 1 | 8 | read | 80.0 | 20.0 | 0.25 |" in table
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(errors.VosError, match="c.json was not written by --json"):
        speed.compare(tmp_path / "a.json", tmp_path / "c.json")
