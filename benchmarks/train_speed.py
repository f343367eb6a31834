"""Measures clips per second of the training pipeline alone and of the training step alone.

    PYTHONPATH=. python benchmarks/train_speed.py --davis data/DAVIS --static data/static
    PYTHONPATH=. python benchmarks/train_speed.py --variants resnet50 --batch 8 --steps 20
    PYTHONPATH=. python benchmarks/train_speed.py --config train_small2

Rows: the pipeline with the mixture of configs/train_davis.py; the step of each variant at 352x352 and 3
frames, with the whole network trained and with a frozen backbone. With `--config`, the step of that config at
its own sizes: unchanged, without proposals, and with a frozen backbone. `--parts` also measures the forward
pass. Weights are random, which does not change the times. Compilation takes a minute per row on a CPU.
"""

import argparse
import functools
import time
from collections.abc import Callable

import jax
import numpy as np

from vos_jax import config as configs
from vos_jax import errors
from vos_jax.data import config as data_config
from vos_jax.data import pipeline
from vos_jax.models import vos
from vos_jax.train import clip_loss, compile_report, optim, parallel, setup, state


def pipeline_rate(config, seconds: float) -> float:
    """Returns the clips per second of the pipeline while nothing else runs."""
    names = setup.datasets_of(config.model, config.train)
    data = pipeline.make_pipeline(config.train.data, dataset_names=names, seed=config.seed)
    for _ in range(1 + config.train.data.prefetch):
        next(data)
    begin, clips = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        clips += len(next(data)["dataset"])
    rate = clips / (time.perf_counter() - begin)
    data.close()
    return rate


def make_batch(data: data_config.ClipDataConfig) -> dict[str, np.ndarray]:
    """Returns a batch of noise with a moving square; the data do not change the cost of a step."""
    rng = np.random.default_rng(0)
    batch = {name: np.zeros(x.shape, x.dtype) for name, x in compile_report.batch_shapes(data).items()}
    batch["frames"] = rng.integers(0, 256, batch["frames"].shape, np.uint8)
    side = data.crop // 3
    for time_index in range(data.clip_length):
        start = side // 2 + 8 * time_index
        batch["ids"][:, time_index, side : 2 * side, start : start + side] = 1
    batch["instances"] = batch["ids"]
    batch["object_valid"][:, 0] = batch["instance_valid"][:, 0] = batch["exhaustive"][:] = True
    batch["frame_valid"][:] = batch["truth_valid"][:] = True
    batch["frame_size"][:] = data.crop
    return batch


def seconds_per_call(call: Callable[[], object], repeats: int) -> float:
    """Returns the median wall time, after one warm-up call."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def step_times(config, repeats: int, *, parts: bool) -> dict[str, float]:
    """Returns the seconds of a step, of its compilation, and, with `parts`, of its forward pass."""
    setup.check_model(config.model)
    model = vos.VOS(config=config.model)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.05 * rng.normal(size=x.shape)).astype(np.float32), shapes)
    tx = optim.make_tx(config.train.optim, params, config.train.steps)
    loss_fn = clip_loss.make_loss_fn(model, config.train.loss, config.train.optim.frozen)
    trainer = parallel.Trainer(loss_fn, tx, config.train.parallel)
    run = trainer.place(
        jax.jit(functools.partial(state.init_train_state, tx=tx))(params, key=jax.random.key(0))
    )
    batch = trainer.put_batch(make_batch(config))
    found = {}
    if parts:
        forward = jax.jit(loss_fn)
        found["forward"] = seconds_per_call(lambda: forward(run.params, batch, run.key, run.step), repeats)

    def once():
        nonlocal run
        run, metrics = trainer.step(run, batch)
        return metrics

    begin = time.perf_counter()
    jax.block_until_ready(once())
    found["compile"] = time.perf_counter() - begin
    found["step"] = seconds_per_call(once, repeats)
    return found


@errors.entry_point
def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--davis", help="DAVIS layout; without, the pipeline's row has photos only")
    parser.add_argument("--static", help="photos with masks; without --davis and this the row is left out")
    parser.add_argument("--config", help="of configs/; in place of --variants and --backbones")
    parser.add_argument("--variants", nargs="*", default=["lite0", "resnet50"])
    parser.add_argument("--backbones", nargs="*", default=["full", "frozen"], choices=["full", "frozen"])
    parser.add_argument("--batch", type=int, help="4, or the config's own")
    parser.add_argument("--crop", type=int, help="352, or the config's own")
    parser.add_argument("--workers", type=int, default=0, help="processes of the pipeline")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the pipeline")
    parser.add_argument("--steps", type=int, default=5, help="measured per row")
    parser.add_argument("--parts", action="store_true", help="also the forward pass alone; compiles more")
    args, overrides = parser.parse_known_args()

    sizes = {"batch": args.batch, "crop": args.crop, "workers": args.workers}
    if args.config is None:
        sizes = {"batch": 4, "crop": 352} | {name: x for name, x in sizes.items() if x is not None}

    def config_of(*more: str):
        given = [f"train.data.{name}={x}" for name, x in sizes.items() if x is not None]
        return configs.load(args.config or "train_davis", [*given, *more, *overrides])

    train = config_of().train
    clip = f"{train.data.clip_length} x {train.data.crop} x {train.data.crop}"
    print(f"{jax.devices()[0].device_kind}: {train.data.batch} clips of {clip}")
    if args.davis or args.static:
        config = config_of()
        for name, root in (("davis", args.davis), ("static", args.static)):
            source = f"train.data.sources.{name}."
            change = {f"{source}root": root} if root else {f"{source}weight": 0.0}
            config = configs.replace(config, change)
        rate = pipeline_rate(config, args.seconds)
        print(f"pipeline alone, {args.workers} worker(s): {rate:.2f} clips/s", flush=True)
    print(f"{'step':<20}{'s/step':>8}{'clips/s':>9}{'forward s':>11}{'compile s':>11}")
    for name, changes in rows_of(args).items():
        found = step_times(config_of(*changes), args.steps, parts=args.parts)
        forward = f"{found['forward']:.2f}" if args.parts else "-"
        rate = train.data.batch / found["step"]
        print(
            f"{name:<20}{found['step']:>8.2f}{rate:>9.2f}{forward:>11}{found['compile']:>11.0f}", flush=True
        )


def rows_of(args: argparse.Namespace) -> dict[str, list[str]]:
    """Returns the table's rows: names, and their changes of the config."""
    frozen = "train.optim.frozen=backbone"
    if args.config is not None:
        return {"as it is": [], "no proposals": ["model.proposals.source=none"], "frozen backbone": [frozen]}
    backbones = {"full": "train.optim.frozen=", "frozen": frozen}
    return {
        f"{variant} {backbone}": [f"model.variant={variant}", backbones[backbone]]
        for variant in args.variants
        for backbone in args.backbones
    }


if __name__ == "__main__":
    raise SystemExit(main())
