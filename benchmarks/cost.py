"""Counts parameters, GFLOP and bytes of the stages of a frame at 480x864, by XLA's cost analysis.

    python -m benchmarks.cost [--variants lite0,resnet50] [--objects 1,3] [--config.model.memory.capacity=8]

Nothing is run and no weights are allocated: every stage is compiled for this machine's device, and
`cost_analysis()` is read. XLA counts the body of a loop once; here the body of every loop of known length
(`scan`, `map`, `fori_loop`) is also compiled separately and counted as often as it runs. Loops that end by a
condition (non-maximum suppression, which ends within a few rounds) count once. Of several branches the
costliest counts: the memory is full, and the search regions cover the frame (benchmarks/speed.py counts the
branches that ran). Bytes are those that fused kernels read and write, without caches.
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
    """The cost of one run of a program."""

    flops: float = 0.0
    bytes: float = 0.0

    def plus(self, other: "Cost", times: float = 1.0) -> "Cost":
        """Returns the sum of this cost and `times` the other."""
        return Cost(self.flops + times * other.flops, self.bytes + times * other.bytes)


def cost_of(function: Callable, *shapes: Any) -> Cost:
    """Returns the cost of a function of arrays of these shapes, counted as the module's docstring says."""
    return _cost(jax.make_jaxpr(function)(*shapes))


def _cost(program: jax_core.ClosedJaxpr) -> Cost:
    total = _counted(program)
    for length, body in _loops(program.jaxpr):
        total = total.plus(_cost(body), length).plus(_counted(body), -1)
    return total


def _counted(program: jax_core.ClosedJaxpr) -> Cost:
    """Returns XLA's count, with every loop's body once."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in program.in_avals]
    found = jax.jit(jax_core.jaxpr_as_fun(program)).lower(*shapes).compile().cost_analysis()
    return Cost(found.get("flops", 0.0), found.get("bytes accessed", 0.0))


def _loops(program: jax_core.Jaxpr) -> Iterator[tuple[int, jax_core.ClosedJaxpr]]:
    """Yields the length and body of the loops of known length, without loops inside a loop's body."""
    for equation in program.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"], equation.params["jaxpr"]
        elif equation.primitive.name == "cond":
            platforms = equation.params.get("branches_platforms")
            branches = list(equation.params["branches"])
            if platforms is not None:
                # `platform_dependent`: the program contains only this device's branch.
                own = [names is not None and jax.default_backend() in names for names in platforms]
                branches = [branches[own.index(True) if any(own) else platforms.index(None)]]
            # The costliest branch is the last one: windows are sorted by size.
            yield from _loops(branches[-1].jaxpr)
        else:
            for value in equation.params.values():
                if isinstance(value, jax_core.ClosedJaxpr):
                    yield from _loops(value.jaxpr)
                elif isinstance(value, jax_core.Jaxpr):
                    yield from _loops(value)


def stages(model: vos.VOS, num_objects: int) -> dict[str, Cost]:
    """Returns the cost of each stage of a frame, of their sum, and of the whole step compiled as one."""
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
    """Returns the number of parameters of each part."""
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
            # Object counts are padded to an object bucket, which determines the cost.
            room = engine_lib.Engine(model, {}, config.inference).capacity_for(count)
            print(f"\n### {variant}, {count} object(s), room for {room}\n")
            print("| stage | GFLOP | MB read and written |\n|---|---:|---:|")
            for name, cost in stages(model, room).items():
                print(f"| {name} | {cost.flops / 1e9:.3f} | {cost.bytes / 1e6:.1f} |", flush=True)
        print()


if __name__ == "__main__":
    sys.exit(main())
