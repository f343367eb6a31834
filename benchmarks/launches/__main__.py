"""Compiles the frame step or the training step for an accelerator that is not there, and counts its launches.

    python -m benchmarks.launches frame [--target h100] [--objects 3] [--size 480x864] [--config default]
    python -m benchmarks.launches train --config train_small
    python -m benchmarks.launches FILE.hlo

Needs jax-cuda12-plugin and jax-cuda12-pjrt of JAX's version (no driver, no GPU), for TPUs libtpu. Columns:
every instruction once; a run that takes the branches with the fewest launches; one with the most. A host wait
is a branch, or a round of a loop of unknown length: a number is copied to the host first.
"""

import argparse
import functools
import os
import pathlib
import sys
import time
from typing import Any

from benchmarks.launches import hlo

CARDS = pathlib.Path(__file__).parent


def find_device(target: str) -> Any:
    """Returns a device to compile for: a card described here, or one chip of a TPU."""
    from jax.experimental import topologies

    card = CARDS / f"{target}.txtpb"
    if card.exists():
        described = topologies.get_topology_desc("", "cuda", target_config=card.read_text(), topology="1x1x1")
    else:
        described = topologies.get_topology_desc(f"{target}:1x1", "tpu", chips_per_host_bounds=(1, 1, 1))
    return described.devices[0]


def lower_frame(device: Any, size: tuple[int, int], objects: int, config: Any) -> Any:
    """Lowers the frame step of an engine for shapes alone."""
    import jax

    from vos_jax.inference import engine
    from vos_jax.models import state, vos

    model = vos.VOS(config=config.model)

    def arguments():
        frame, prompt = jax.numpy.zeros((*size, 3), "uint8"), state.no_prompt(objects, size)
        return model.init(jax.random.key(0)), state.init_state(model, objects, size, size), frame, prompt

    where = jax.sharding.SingleDeviceSharding(device)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), jax.eval_shape(arguments)
    )
    return engine.Engine(model, {}, config.inference).lower(*shapes)


def lower_train(device: Any, config: Any) -> Any:
    """Lowers the training step of a recipe for shapes alone."""
    import jax

    from vos_jax.models import vos
    from vos_jax.train import clip_loss, compile_report, optim, parallel, state

    train, model = config.train, vos.VOS(config=config.model)
    params = jax.eval_shape(model.init, jax.random.key(0))
    tx = optim.make_tx(train.optim, params, train.steps)
    loss_fn = clip_loss.make_loss_fn(model, train.loss, train.optim.frozen)
    trainer = parallel.Trainer(loss_fn, tx, train.parallel, devices=[device], ema_decay=train.optim.ema_decay)
    init = functools.partial(state.init_train_state, tx=tx)
    return trainer.lower(
        jax.eval_shape(init, params, key=jax.random.key(0)), compile_report.batch_shapes(train.data)
    )


def compile_program(options: argparse.Namespace, overrides: list[str]) -> str:
    """Returns the text of the optimised program; prints the seconds of tracing and compilation."""
    from vos_jax import config as configs
    from vos_jax.ops import target

    config, device = configs.load(options.config, overrides), find_device(options.target)
    height, width = map(int, options.size.split("x"))
    start = time.perf_counter()
    with target.compile_for(device.platform):
        if options.program == "frame":
            lowered = lower_frame(device, (height, width), options.objects, config)
        else:
            lowered = lower_train(device, config)
    traced = time.perf_counter()
    # Triton finds no tiles for some gradients without a GPU to try them on.
    plain = {"xla_gpu_enable_triton_gemm": False} if options.program == "train" else {}
    text = lowered.compile(compiler_options=plain if device.platform in ("cuda", "gpu") else {}).as_text()
    print(
        f"{device.device_kind}: traced {traced - start:.0f} s, compiled {time.perf_counter() - traced:.0f} s"
    )
    return text


def report(module: hlo.Module) -> None:
    """Prints the three columns."""
    columns = [module.run(module.entry, branch) for branch in (sum, min, max)]
    named = ("kind ", "from ")
    keys = sorted({*columns[0], *columns[2]}, key=lambda k: (k[:5] in named, k[:4], -columns[2][k], k))
    print(f"{'':<66}{'static':>12}{'least':>12}{'most':>12}")
    for key in keys:
        print(f"{key:<66}" + "".join(f"{column[key]:>12.4g}" for column in columns))


def main() -> None:
    # In this order: else the CUDA plugin looks for a driver, fails and is dropped.
    os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1")
    from vos_jax import config as configs

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.launches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("program", metavar="frame|train|FILE.hlo")
    parser.add_argument("--config", default="default")
    parser.add_argument("--target", default="h100", help="h100, h200 or a TPU such as v5e")
    parser.add_argument("--size", default="480x864", help="of the padded frame, height x width")
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--unknown", type=int, default=3, help="rounds of loops of unknown length")
    parser.add_argument("--out", metavar="FILE", help="where the optimised program is written")
    rest, overrides = configs.split_arguments(sys.argv[1:])
    options = parser.parse_args(rest)
    if options.program in ("frame", "train"):
        text = compile_program(options, overrides)
        if options.out:
            pathlib.Path(options.out).write_text(text)
    else:
        text = pathlib.Path(options.program).read_text()
    report(hlo.Module(text, options.unknown))


if __name__ == "__main__":
    main()
