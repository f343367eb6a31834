"""Trains the model; run the same command again and it goes on where it was stopped.

    python train.py --config train_static --workdir runs/static --data data/static evaluation=data/DAVIS
    python -m vos_jax.tools.export runs/static runs/static.safetensors
    python train.py --config train_davis --workdir runs/davis --init runs/static.safetensors
    python train.py --config train_davis --compile_only --topology v5e:4x4 --config.train.data.batch=64

writes WORKDIR/checkpoints, metrics.jsonl, evaluations.jsonl, tensorboard/ and config.json. Ctrl-C and SIGTERM
save a checkpoint first. On several machines start it on each: docs/scaling.md.
"""

import argparse
import dataclasses
import functools
import logging
import pathlib
import shlex
import sys
from collections.abc import Sequence

import jax

import vos_jax
from vos_jax import checkout, cli, devices, errors, files, processes
from vos_jax import config as configs
from vos_jax.data import pipeline
from vos_jax.evaluation import held_out
from vos_jax.models import vos, weights
from vos_jax.train import (
    checkpoints,
    clip_loss,
    compile_report,
    optim,
    parallel,
    run_log,
    setup,
    signals,
    state,
)
from vos_jax.train import workdir as workdir_lib
from vos_jax.visualize import clip_preview

UNUSED = configs.Unused(
    "train.py",
    sections=(
        "checkpoint",
        "data.",
        "eval.",
        "inference.adaptation.",
        "model.training_free.",
        "inference.direction",
        "inference.flip",
        "inference.scales",
    ),
)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line: options, and the config overrides among them."""
    parser = cli.Parser("train.py", __doc__, example="train.data.batch=4")
    parser.add_argument("--workdir", metavar="DIR", help="where everything goes; an existing one is resumed")
    parser.add_argument(
        "--data",
        metavar="[NAME=]DIR",
        nargs="+",
        default=[],
        help="where the sources lie: static=data/static davis=data/DAVIS; also evaluation=DIR",
    )
    parser.add_argument("--init", metavar="imagenet|random|FILE", help="weights to begin with")
    parser.add_argument(
        "--allow_config_change", action="store_true", help="resume although the config is another"
    )
    parser.add_argument("--compile_only", action="store_true", help="compile for --topology, train nothing")
    parser.add_argument("--topology", metavar="NAME", default="v5e:4x4", help="of TPUs, as v5e:16x16")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where no cluster tells")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    options, overrides = parser.parse(arguments)
    if not options.compile_only and options.workdir is None:
        parser.error("--workdir DIR is needed")
    return options, overrides


@errors.entry_point
def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options, overrides = parse(arguments)
    config = configs.load(options.config, overrides)
    UNUSED.check(config, overrides)
    train = setup.apply_data(config.train, options.data)
    train = dataclasses.replace(train, init=options.init or train.init)
    config = dataclasses.replace(config, train=train)
    screen = cli.make_console()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    checkpoints.be_quiet()

    # ---------------------------------------------------------------- devices
    if options.compile_only:
        report = compile_report.compile_step(config.model, config.train, options.topology)
        screen.print(compile_report.describe(report))
        return
    workdir = pathlib.Path(options.workdir)
    roots = [train.data.sources[name].root for name in train.data.drawn()]
    workdir_lib.check(workdir, [*roots, train.held_out.root], train.checkpoint.every)
    files.check_writable(workdir, "--workdir")
    plain = configs.flatten(config)
    # In this order: JAX looks for other processes only before it settles on devices.
    devices.prefer(options.device)
    group = processes.join(options.coordinator, options.num_processes, options.process_id, detect=True)
    device = devices.choose(options.device)
    _refuse_changes(workdir, plain, allow=options.allow_config_change)
    if group.is_leader:
        files.lock_folder(workdir, "--workdir")
        for name in (workdir_lib.CONFIG, *workdir_lib.LOGS):
            files.remove_leftovers_of(workdir / name)
    say = screen.print if group.is_leader else lambda *_: None

    # ---------------------------------------------------------------- data
    setup.check_model(config.model)
    model = vos.VOS(config=config.model)
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    names = weights.datasets_at(model, train.init, setup.datasets_of(config.model, train))
    data = pipeline.make_pipeline(
        train.data,
        dataset_names=names,
        seed=config.seed,
        process_index=group.index,
        process_count=group.count,
    )
    videos = setup.evaluation_videos(train)
    evaluate = held_out.Evaluator(model, videos, config.inference) if videos else None
    draw = clip_preview.make_preview(model)

    # ---------------------------------------------------------------- model, optimiser, devices
    schedule = optim.schedule(train.optim, train.steps)
    # After the data: random parameters take most of a minute, and a missing folder should not.
    params = weights.init_params(model, train.init, init_key, names)
    tx = optim.make_tx(train.optim, params, train.steps)
    trainer = parallel.Trainer(
        clip_loss.make_loss_fn(model, train.loss, train.optim.frozen),
        tx,
        train.parallel,
        ema_decay=train.optim.ema_decay,
    )
    run = trainer.place(jax.jit(functools.partial(state.init_train_state, tx=tx))(params, key=run_key))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    say(f"{count:,} parameters of {config.model.variant} on {len(trainer.mesh.devices.flat)} x {device}")

    with (
        checkpoints.Checkpoints(workdir, train.checkpoint) as saved,
        signals.Stop() as stop,
    ):
        # ---------------------------------------------------------------- resume
        start, scored_at = 0, None
        if (restored := saved.restore(run, data)) is not None:
            run, start = restored.state, restored.step
            scored_at = start if restored.record.get("score") is not None else None
            say(f"resumed at step {start} from {saved.folder / str(start)}")
        del restored, params
        note = {
            "config": plain,
            "version": vos_jax.__version__,
            "commit": checkout.commit(),
            "command": shlex.join(["python", "train.py", *arguments]),
        }
        if group.is_leader:
            files.write_json(workdir / workdir_lib.CONFIG, note)

        # ---------------------------------------------------------------- train
        with run_log.Watch(workdir, screen, start=start, total=train.steps, clips=train.data.batch) as view:
            pending = None

            def settle() -> None:
                """Waits for the step before: its loss is a number, and is noted."""
                nonlocal pending
                if pending is None:
                    return
                number, batch, metrics = pending
                pending = None
                metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
                metrics = {"loss": metrics.pop("loss"), **metrics}
                last = max(saved.steps(), default=None)
                hint = f"The last checkpoint is of step {last}; a lower train.optim.learning_rate may help"
                run_log.check_finite(number, metrics, batch, workdir, hint)
                if number == start + 1:
                    view.begin(number)
                if number % train.log_every == 0 or number == train.steps:
                    view.scalars(number, {**metrics, "lr": float(schedule(number - 1))})

            number, saved_at = start, start if start else None
            while True:
                last = number >= train.steps
                due = evaluate is not None and number != scored_at
                score = None
                if due and (last or number % train.held_out.every == 0):
                    settle()
                    assert evaluate is not None
                    with view.pause():
                        found = evaluate(parallel.to_host(run.ema), lambda: stop.signal is not None)
                    if found is not None:
                        score, scored_at = found.score, number
                        view.evaluation(number, found.score, found.sequences)
                stopping = stop.requested(number)
                save = last or stopping or score is not None or number % train.checkpoint.every == 0
                if save and number and number != saved_at or (score is not None and number == 0):
                    settle()
                    with view.pause():
                        saved.save(number, run, data, record=note, score=score)
                    saved_at = number
                if last or stopping:
                    break

                with view.waiting():
                    batch = next(data)
                run, metrics = trainer.step(run, trainer.put_batch(batch))
                settle()
                number += 1
                pending = number, batch, metrics
                if train.picture_every and number % train.picture_every == 0:
                    with view.pause():
                        averaged = parallel.to_host(run.ema)
                        if group.is_leader:
                            clip = {name: value[0] for name, value in batch.items()}
                            view.picture(number, draw(averaged, clip))
            settle()

        # ---------------------------------------------------------------- done
        saved.wait()
        data.close()
        if number < train.steps:
            say(
                f"stopped by {stop.signal and stop.signal.name or 'SIGTERM'} at step {number}; "
                f"saved: the same command goes on"
            )
        else:
            say(f"trained to step {number}; python -m vos_jax.tools.export {workdir} OUT.safetensors")
    if stop.signal is not None and stop.signal.name == "SIGINT":
        raise KeyboardInterrupt


def _refuse_changes(workdir: pathlib.Path, now: dict, *, allow: bool) -> None:
    """Raises VosError where a run would go on with another config than it began with."""
    noted = checkpoints.last_record(workdir)
    if allow or noted is None:
        return
    defaults = configs.flatten(configs.default(now["model.variant"]))
    if changes := setup.changed(noted["config"], now, defaults):
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        raise errors.VosError(
            f"{workdir} was begun with another config ({'; '.join(changes[:5])}{more}); choose another "
            "--workdir, or go on with the new one by --allow_config_change"
        )


if __name__ == "__main__":
    sys.exit(main())
