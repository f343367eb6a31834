"""Trains the model; run the same command again and it goes on where it was stopped.

    python train.py --config train_static --workdir runs/static --data data/static evaluation=data/DAVIS
    python -m vos_jax.tools.export runs/static runs/static.safetensors
    python train.py --config train_davis --workdir runs/davis --init runs/static.safetensors
    python train.py --config train_davis --compile-only --topology v5e:4x4 --config.train.data.batch=64

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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import vos_jax  # isort: skip - before JAX

import jax
import optax
from rich import console

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
    parser.add_argument(
        "--init",
        metavar="imagenet|random|NAME|FILE",
        help="weights to begin with; NAME: those that ship, such as lite0",
    )
    parser.add_argument(
        "--allow-config-change", action="store_true", help="resume although the config is another"
    )
    parser.add_argument("--compile-only", action="store_true", help="compile for --topology, train nothing")
    parser.add_argument("--topology", metavar="NAME", default="v5e:4x4", help="of TPUs, as v5e:16x16")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where no cluster tells")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    parser.add_argument("--join-timeout", type=int, metavar="SECONDS", help="how long to wait for the others")
    options, overrides = parser.parse(arguments)
    if not options.compile_only and options.workdir is None:
        parser.error("--workdir DIR is needed")
    return options, overrides


@dataclasses.dataclass
class Run:
    """A training run: its settings, and the parts that `build` makes of them."""

    config: configs.Config
    workdir: pathlib.Path
    screen: console.Console
    group: processes.ProcessGroup
    data: pipeline.BatchIterator
    trainer: parallel.Trainer
    schedule: optax.Schedule
    evaluate: held_out.Evaluator | None
    draw: Callable[..., Any]
    state: state.TrainState

    def say(self, text: str) -> None:
        """Prints a line in the first process."""
        if self.group.is_leader:
            self.screen.print(text)


@errors.entry_point
def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options, overrides = parse(arguments)
    config = configure(options, overrides)
    screen = cli.make_console()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    checkpoints.be_quiet()
    if options.compile_only:
        report = compile_report.compile_step(config.model, config.train, options.topology)
        screen.print(compile_report.describe(report))
        return
    group, device = open_workdir(options, config)
    run = build(config, pathlib.Path(options.workdir), screen, group, device)
    note = {
        "config": configs.flatten(config),
        "version": vos_jax.__version__,
        "commit": checkout.commit(),
        "command": shlex.join(["python", "train.py", *arguments]),
    }
    with checkpoints.Checkpoints(run.workdir, config.train.checkpoint) as saved, signals.Stop() as stop:
        number = train(run, saved, stop, note)
        saved.wait()
        run.data.close()
        if number < config.train.steps:
            name = stop.signal.name if stop.signal else "SIGTERM"
            run.say(f"stopped by {name} at step {number}; saved: the same command goes on")
        else:
            run.say(f"trained to step {number}; python -m vos_jax.tools.export {run.workdir} OUT.safetensors")
    if stop.signal is not None and stop.signal.name == "SIGINT":
        raise KeyboardInterrupt


def configure(options: argparse.Namespace, overrides: Sequence[str]) -> configs.Config:
    """Returns the settings with the options of the command line."""
    config = configs.load(options.config, overrides)
    UNUSED.check(config, overrides)
    train = setup.apply_data(config.train, options.data)
    train = dataclasses.replace(train, init=options.init or train.init)
    return dataclasses.replace(config, train=train)


def open_workdir(options: argparse.Namespace, config: configs.Config) -> tuple[processes.ProcessGroup, str]:
    """Joins the other processes and locks the folder; returns the group and the name of the device.

    Raises:
      VosError: a folder that cannot be written, holds data, or was begun with another config.
    """
    workdir, train = pathlib.Path(options.workdir), config.train
    roots = [train.data.sources[name].root for name in train.data.drawn()]
    workdir_lib.check(workdir, [*roots, train.held_out.root], train.checkpoint.every)
    files.check_writable(workdir, "--workdir")
    # In this order: JAX looks for other processes only before it settles on devices.
    devices.prefer(options.device)
    group = processes.join(
        options.coordinator,
        options.num_processes,
        options.process_id,
        detect=True,
        timeout_seconds=options.join_timeout,
    )
    device = devices.choose(options.device)
    _refuse_changes(workdir, configs.flatten(config), allow=options.allow_config_change)
    if group.is_leader:
        files.lock_folder(workdir, "--workdir")
        for name in (workdir_lib.CONFIG, *workdir_lib.LOGS):
            files.remove_leftovers_of(workdir / name)
    return group, device


def build(
    config: configs.Config,
    workdir: pathlib.Path,
    screen: console.Console,
    group: processes.ProcessGroup,
    device: str,
) -> Run:
    """Opens the data and makes model, optimiser and first state."""
    setup.check_model(config.model)
    train, model = config.train, vos.VOS(config=config.model)
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
    # After the data: random parameters take most of a minute, and a missing folder should not.
    params = weights.init_params(model, train.init, init_key, names)
    tx = optim.make_tx(train.optim, params, train.steps, sharded=train.parallel.fsdp > 1)
    loss_fn = clip_loss.make_loss_fn(model, train.loss, train.optim.frozen)
    trainer = parallel.Trainer(loss_fn, tx, train.parallel, ema_decay=train.optim.ema_decay)
    run = Run(
        config=config,
        workdir=workdir,
        screen=screen,
        group=group,
        data=data,
        trainer=trainer,
        schedule=optim.schedule(train.optim, train.steps),
        evaluate=evaluate,
        draw=clip_preview.make_preview(model),
        state=trainer.place(jax.jit(functools.partial(state.init_train_state, tx=tx))(params, key=run_key)),
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    on = f"{len(trainer.mesh.devices.flat)} x {device}"
    run.say(f"{count:,} parameters of {config.model.variant} on {on}")
    return run


def train(run: Run, saved: checkpoints.Checkpoints, stop: signals.Stop, note: dict[str, Any]) -> int:
    """Trains from the last checkpoint to the end or to a signal; returns the number of steps taken.

    Args:
      run: its state is that of step 0; it changes.
      saved: the checkpoints.
      stop: asked after every step.
      note: goes into config.json and every checkpoint's record.
    """
    settings, number, scored_at = run.config.train, 0, None
    if (restored := saved.restore(run.state, run.data)) is not None:
        run.state, number = restored.state, restored.step
        scored_at = number if restored.record.get("score") is not None else None
        run.say(f"resumed at step {number} from {saved.folder / str(number)}")
    del restored
    if run.group.is_leader:
        files.write_json(run.workdir / workdir_lib.CONFIG, note)
    saved_at = number or None  # a run that begins has no checkpoint of step 0
    total, clips = settings.steps, settings.data.batch
    with run_log.RunLog(run.workdir, run.screen, start=number, total=total, clips=clips) as log:
        steps = Steps(run, saved, log, number)
        while True:
            last, score = number >= total, None
            if run.evaluate and number != scored_at and (last or number % settings.held_out.every == 0):
                steps.finish()
                with log.pause():
                    found = run.evaluate(parallel.to_host(run.state.ema), lambda: stop.signal is not None)
                if found is not None:
                    score, scored_at = found.score, number
                    log.evaluation(number, found.score, found.sequences)
            stopping = stop.requested(number)
            due = last or stopping or score is not None or number % settings.checkpoint.every == 0
            if due and number != saved_at and (number or score is not None):
                steps.finish()
                with log.pause():
                    saved.save(number, run.state, run.data, record=note, score=score)
                saved_at = number
            if last or stopping:
                steps.finish()
                return number
            number += 1
            batch = steps.take(number)
            if settings.picture_every and number % settings.picture_every == 0:
                with log.pause():
                    averaged = parallel.to_host(run.state.ema)
                    if run.group.is_leader:
                        clip = {name: value[0] for name, value in batch.items()}
                        log.picture(number, run.draw(averaged, clip))


class Steps:
    """Takes optimiser steps; the metrics of each are awaited after the next one has begun."""

    def __init__(self, run: Run, saved: checkpoints.Checkpoints, log: run_log.RunLog, start: int):
        self._run, self._saved, self._log, self._start = run, saved, log, start
        self._pending: tuple[int, Mapping[str, Any], Mapping[str, Any]] | None = None

    def take(self, number: int) -> Mapping[str, Any]:
        """Takes step `number`, finishes the one before, and returns the batch."""
        run = self._run
        with self._log.waiting():
            batch = next(run.data)
        run.state, metrics = run.trainer.step(run.state, run.trainer.put_batch(batch))
        self.finish()
        self._pending = number, batch, metrics
        return batch

    def finish(self) -> None:
        """Waits for the step taken last and notes its metrics; VosError where one is no number."""
        if self._pending is None:
            return
        (number, batch, found), self._pending = self._pending, None
        run, settings = self._run, self._run.config.train
        metrics = {name: float(value) for name, value in jax.device_get(found).items()}
        metrics = {"loss": metrics.pop("loss"), **metrics}
        last = max(self._saved.steps(), default=None)
        hint = f"The last checkpoint is of step {last}; a lower train.optim.learning_rate may help"
        run_log.check_finite(number, metrics, batch, run.workdir, hint)
        if number == self._start + 1:
            self._log.begin(number)
        if number % settings.log_every == 0 or number == settings.steps:
            self._log.scalars(number, {**metrics, "lr": float(run.schedule(number - 1))})


def _refuse_changes(workdir: pathlib.Path, now: dict, *, allow: bool) -> None:
    """Raises VosError where a run would go on with another config than it began with."""
    noted = checkpoints.last_record(workdir)
    if allow or noted is None:
        return
    defaults = configs.flatten(configs.default(now["model.variant"]))
    began, init = noted["config"].get("train.init", defaults["train.init"]), now["train.init"]
    if not setup.same_start(began, init):
        raise errors.VosError(
            f"{workdir} has begun from {began}, and --init {init} has no effect on it; choose another "
            "--workdir, or go on with this run by --allow-config-change"
        )
    if changes := setup.changed(noted["config"], now, defaults):
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        raise errors.VosError(
            f"{workdir} was begun with another config ({'; '.join(changes[:5])}{more}); choose another "
            "--workdir, or go on with the new one by --allow-config-change"
        )


if __name__ == "__main__":
    sys.exit(main())
