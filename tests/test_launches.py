"""The frame step for accelerators holds few loops, and the counter of launches counts a program by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest

from benchmarks.launches import hlo
from vos_jax import config as configs
from vos_jax.models import state, step, vos
from vos_jax.ops import target

PROGRAM = """HloModule jit_f, is_scheduled=true

FileNames
1 "/home/vos_jax/ops/boxes.py"

FunctionNames
1 "settle"

FileLocations
1 {file_name_id=1 function_name_id=1 line=3}

StackFrames
1 {file_location_id=1 parent_frame_id=1}

%fused (p: f32[4,8], q: f32[8,2]) -> f32[4,2] {
  %p = f32[4,8]{1,0} parameter(0)
  %q = f32[8,2]{1,0} parameter(1)
  ROOT %d = f32[4,2]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (t: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %t = (s32[], f32[4,2]) parameter(0)
  %x = f32[4,2]{1,0} get-tuple-element(%t), index=1
  %y = f32[4,2]{1,0} add(%x, %x), metadata={op_name="a" stack_frame_id=1}
  ROOT %r = (s32[], f32[4,2]) tuple(%t, %y)
}

%condition (t: (s32[], f32[4,2])) -> pred[] {
  %t = (s32[], f32[4,2]) parameter(0)
  ROOT %c = pred[] compare(%t, %t), direction=LT
}

%little (x: f32[4,2]) -> f32[4,2] {
  ROOT %x = f32[4,2]{1,0} parameter(0)
}

%much (x: f32[4,2]) -> f32[4,2] {
  %x = f32[4,2]{1,0} parameter(0)
  ROOT %y = f32[4,2]{1,0} multiply(%x, %x)
}

ENTRY %main (a: f32[4,8], b: f32[8,2]) -> f32[4,2] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[8,2]{1,0} parameter(1)
  %f = f32[4,2]{1,0} fusion(%a, %b), kind=kLoop, calls=%fused
  %w = (s32[], f32[4,2]) while(%f), condition=%condition, body=%body
  %k = (s32[], f32[4,2]) while(%f), condition=%condition, body=%body, b={"known_trip_count":{"n":"5"}}
  ROOT %z = f32[4,2]{1,0} conditional(%f, %w, %k), branch_computations={%little, %much}
}
"""


def test_launches_by_hand():
    module = hlo.Module(PROGRAM, unknown=3)
    static, least, most = (module.run(module.entry, branch) for branch in (sum, min, max))
    # The product; loops of unknown length run body and condition 3 times, those of known length the body.
    assert static["kernels"] == 1 + 2 + 2 + 1
    assert least["kernels"] == 1 + 3 * 2 + 5 and most["kernels"] == least["kernels"] + 1
    assert most["host waits"] == 3 + 1 and most["while loops"] == 2 and most["conditionals"] == 1
    assert most["FLOPs"] == 2 * 4 * 8 * 2 and most["kind dot"] == 1
    assert most["from ops/boxes.py:settle"] == 3 + 5
    moved = 4 * (4 * 8 + 8 * 2 + 4 * 2)
    assert module._cost(module.computations["main"], module.computations["main"]["f"]).bytes == moved


@pytest.mark.parametrize("objects", [1, 3])
def test_the_frame_step_for_gpus_has_no_loop_but_suppression_and_the_first_assignment(objects):
    """A loop of the read or of the matching alone would cost more than all kernels of the frame."""
    config, size = configs.load("default").model, (128, 160)
    model = vos.VOS(config=config)

    def arguments():
        frame, prompt = jnp.zeros((*size, 3), jnp.uint8), state.no_prompt(objects, size)
        params = model.init(jax.random.key(0))
        return params, state.init_state(model, objects, size, size), frame, prompt

    with target.compile_for("cuda"):
        program = jax.jit(functools.partial(step.step, model)).trace(*jax.eval_shape(arguments))
        text = program.lower(lowering_platforms=("cuda",)).as_text()
    # The third is the map over proposals of the alignment, of a single round.
    assert text.count("stablehlo.while") <= 3
    assert text.count("stablehlo.sort") + text.count("chlo.top_k") <= 4
