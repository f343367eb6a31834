"""What a frame costs at 480x864 by XLA's own count: parameters, GFLOP and bytes by stage.

    python -m benchmarks.cost [--variants lite0,resnet50] [--objects 1,3] [--config.model.memory.capacity=8]

Nothing is run and no weights are made: every stage is compiled for this machine's device and
`cost_analysis()` is read. XLA counts the body of a loop once; here the body of every loop whose length is
known (`scan`, `map`, `fori_loop`) is compiled by itself as well and counted as often as it runs. Loops that
end by a condition (non-maximum suppression, which settles within a few rounds) count once. Of branches the
dearest counts: the memory is full, and the objects reach all over the frame (benchmarks/speed.py counts what
really ran). Bytes are what fused kernels read and write; caches are
not thought of.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jax_core

from benchmarks import stages as stages_lib
from vos_jax import config as configs
from vos_jax import errors
from vos_jax.inference import engine as engine_lib
from vos_jax.models import state as state_lib
from vos_jax.models import vos

SIZE = (480, 864)


class Cost(NamedTuple):
    """Of one run of a program."""

    flops: float = 0.0
    bytes: float = 0.0

    def plus(self, other: "Cost", times: float = 1.0) -> "Cost":
        """This and `times` the other."""
        return Cost(self.flops + times * other.flops, self.bytes + times * other.bytes)


def cost_of(function: Callable, *shapes: Any) -> Cost:
    """The cost of a function of arrays of these shapes; see the top of the file for what is counted."""
    return _cost(jax.make_jaxpr(function)(*shapes))


def _cost(program: jax_core.ClosedJaxpr) -> Cost:
    total = _counted(program)
    for length, body in _loops(program.jaxpr):
        total = total.plus(_cost(body), length).plus(_counted(body), -1)
    return total


def _counted(program: jax_core.ClosedJaxpr) -> Cost:
    """XLA's count, every loop's body once."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in program.in_avals]
    found = jax.jit(jax_core.jaxpr_as_fun(program)).lower(*shapes).compile().cost_analysis()
    return Cost(found.get("flops", 0.0), found.get("bytes accessed", 0.0))


def _loops(program: jax_core.Jaxpr) -> Iterator[tuple[int, jax_core.ClosedJaxpr]]:
    """The loops of known length, with their bodies; not those inside of another loop's body."""
    for equation in program.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"], equation.params["jaxpr"]
        elif equation.primitive.name == "cond":
            platforms = equation.params.get("branches_platforms")
            branches = list(equation.params["branches"])
            if platforms is not None:
                # `platform_dependent`: only this device's branch becomes part of the program.
                own = [names is not None and jax.default_backend() in names for names in platforms]
                branches = [branches[own.index(True) if any(own) else platforms.index(None)]]
            # The dearer branches come last: windows rise with their size.
            yield from _loops(branches[-1].jaxpr)
        else:
            for value in equation.params.values():
                if isinstance(value, jax_core.ClosedJaxpr):
                    yield from _loops(value.jaxpr)
                elif isinstance(value, jax_core.Jaxpr):
                    yield from _loops(value)


def stages(model: vos.VOS, num_objects: int) -> dict[str, Cost]:
    """Each stage of a frame by itself, their sum, and the whole step compiled as one."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    frame = jax.ShapeDtypeStruct((*SIZE, 3), jnp.uint8)
    state = jax.eval_shape(lambda: state_lib.init_state(model, num_objects, SIZE, SIZE))
    found = {
        stage.name: cost_of(stage.function, *stage.arguments)
        for stage in stages_lib.of_frame(model, params, state, frame, jax.eval_shape)
    }
    parts = (cost for name, cost in found.items() if name != stages_lib.WHOLE)
    return {**found, "sum of the parts": functools.reduce(Cost.plus, parts)}


def parameters(model: vos.VOS) -> dict[str, int]:
    """How many numbers each part learns."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    counts = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in params.items()}
    return {**counts, "all": sum(counts.values())}


@errors.entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--variants", default="lite0,resnet50")
    parser.add_argument("--objects", default="1,3")
    options, overrides = configs.split_arguments(sys.argv[1:])
    options = parser.parse_args(options)
    device = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    for variant in options.variants.split(","):
        config = configs.load("default", [*overrides, f"model.variant={variant}"])
        model, slots = vos.VOS(config=config.model), config.model.memory.capacity
        print(f"## {variant}, {SIZE[0]}x{SIZE[1]}, {slots} slots, {config.model.dtype}, {device}\n")
        print("| part | parameters |\n|---|---:|")
        for name, count in parameters(model).items():
            print(f"| {name} | {count:,} |")
        for count in map(int, options.objects.split(",")):
            # Object counts are padded to these: what is paid for is the room.
            room = engine_lib.Engine(model, {}, config.inference).capacity_for(count)
            print(f"\n### {variant}, {count} object(s), room for {room}\n")
            print("| stage | GFLOP | MB read and written |\n|---|---:|---:|")
            for name, cost in stages(model, room).items():
                print(f"| {name} | {cost.flops / 1e9:.3f} | {cost.bytes / 1e6:.1f} |", flush=True)
        print()


if __name__ == "__main__":
    sys.exit(main())
