"""What a frame costs at 480x864 by XLA's own count: parameters, GFLOP and bytes by stage.

    python -m benchmarks.cost [--variants lite0,resnet50] [--objects 1,3] [--config.memory.capacity=8]

Nothing is run and no weights are made: every stage is compiled for this machine's device and
`cost_analysis()` is read. XLA counts the body of a loop once; here the body of every loop whose length is
known (`scan`, `map`, `fori_loop`) is compiled by itself as well and counted as often as it runs. Loops that
end by a condition (non-maximum suppression, which settles within a few rounds) count once. Of branches XLA
counts the dearer one: the memory is taken to be full. Bytes are what fused kernels read and write; caches are
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

from vos_jax import config as configs
from vos_jax import errors
from vos_jax.inference import loading, rollout, tracker
from vos_jax.models import alignment, masks, vos
from vos_jax.models import matching as matching_lib
from vos_jax.models import read as read_lib
from vos_jax.models import state as state_lib

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
            found = [list(_loops(branch.jaxpr)) for branch in branches]
            if len(found) > 1 and any(found):
                raise NotImplementedError("a loop in a branch: which one runs?")
            yield from found[0]
        else:
            for value in equation.params.values():
                if isinstance(value, jax_core.ClosedJaxpr):
                    yield from _loops(value.jaxpr)
                elif isinstance(value, jax_core.Jaxpr):
                    yield from _loops(value)


def stages(model: vos.VOS, num_objects: int) -> dict[str, Cost]:
    """Each stage of a frame by itself, and the whole step compiled as one."""
    shapes_of = jax.eval_shape
    params = shapes_of(model.init, jax.random.key(0))
    frame = jax.ShapeDtypeStruct((*SIZE, 3), jnp.uint8)
    state = shapes_of(lambda: state_lib.init_state(model, num_objects, SIZE, SIZE))
    given = shapes_of(lambda: state_lib.no_given(num_objects, SIZE))
    encoded = shapes_of(model.encode, params, frame, state.frame_size)
    prediction = shapes_of(model.predict, params, encoded, state)
    read, out = prediction.read, prediction.out
    network = vos.VOSNet(model.config, model.hard)

    def of(stage: Callable, *shapes: Any) -> Cost:
        """`stage` takes the network and arrays of these shapes."""
        return cost_of(lambda p, *args: network.apply({"params": p}, *args, method=stage), params, *shapes)

    def align(net, read, embed, boxes, state):
        template = net._templates(read, state)
        regions = net._regions(embed, boxes, state.frame_size)
        return alignment.score_all(
            alignment.resolve(net.config.alignment),
            net.match_projection(template.vectors),
            template.weights,
            net.match_projection(regions),
            jnp.exp(net.log_temperature),
        )[0]

    def match(net, similarity, candidates, compared, state):
        iou = matching_lib.mask_iou(compared > 0.5, candidates.masks > 0.5)
        cost = matching_lib.cost(similarity, iou, net.lambda_logit[state.dataset])
        null_cost = jnp.broadcast_to(net.null_cost, state.object_valid.shape)
        assignment = net._assign(cost, null_cost, state.object_valid, candidates.valid)
        return jnp.einsum("np,phw->nhw", assignment[:, :-1], candidates.masks), assignment

    def finish(prob, valid):
        return masks.to_ids(masks.aggregate(prob, valid), state_lib.MASK_STRIDE)

    def step(params, state, frame, given):
        state, prob, prediction = rollout.frame_step(model, params, state, frame, given)
        return state, masks.to_ids(prob, state_lib.MASK_STRIDE), prediction.presence

    features = encoded.features
    found = {
        "backbone": of(lambda net, frame: net.backbone(frame), frame),
        "key and embedding": of(lambda net, c4: (net.key_head(c4), net.embed_head(c4)), features.c4),
        "read": cost_of(
            lambda q, memory: read_lib.read(q, memory, model.config.read), encoded.key, state.memory
        ),
    }
    if model.config.use_proposals:
        found["proposals"] = of(
            lambda net, features, size: net.proposal_network(features, size).proposals,
            features,
            state.frame_size,
        )
    found["templates, regions, alignment"] = of(align, read, encoded.embed, out.proposals.boxes, state)
    found["matching"] = of(match, out.similarity, out.proposals, state.prev_prob, state)
    if model.config.use_refine:
        arguments = features, read.value, read.prob, out.coarse, state.prev_prob
        found["RefineNet"] = of(lambda net, *args: net.refine(*args), *arguments)
    found["upsampling and argmax"] = cost_of(finish, prediction.prob, state.object_valid)
    found["value"] = cost_of(model.value, params, encoded, state.prev_prob, state)
    found["sum"] = functools.reduce(Cost.plus, found.values())
    found["whole step, compiled as one"] = cost_of(step, params, state, frame, given)
    return found


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
        model = vos.VOS(config=loading.vos_config(config))
        print(
            f"## {variant}, {SIZE[0]}x{SIZE[1]}, {config.memory.capacity} slots, {config.dtype}, {device}\n"
        )
        print("| part | parameters |\n|---|---:|")
        for name, count in parameters(model).items():
            print(f"| {name} | {count:,} |")
        for count in map(int, options.objects.split(",")):
            # Object counts are padded to these: what is paid for is the room.
            room = tracker.Tracker(model, {}, buckets=config.objects.buckets).bucket(count)
            print(f"\n### {variant}, {count} object(s), room for {room}\n")
            print("| stage | GFLOP | MB read and written |\n|---|---:|---:|")
            for name, cost in stages(model, room).items():
                print(f"| {name} | {cost.flops / 1e9:.3f} | {cost.bytes / 1e6:.1f} |", flush=True)
        print()


if __name__ == "__main__":
    main()
