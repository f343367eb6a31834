"""Training until a deadline, resumable from a few small files."""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from benchmarks.accelerator import clock, state_files
from vos_jax import config as configs
from vos_jax import errors
from vos_jax.data import pipeline
from vos_jax.models import vos, weights
from vos_jax.train import clip_loss, optim, parallel, run_log, setup, signals, state

CURVE = "curve.jsonl"


class Program:
    """The training program of a config with its initial parameters; compiled once per batch size.

    Args:
      config: the settings; `train.data.batch` is ignored.

    Raises:
      VosError: a value out of range, or initial weights that are missing or of another model.
    """

    def __init__(self, config: configs.Config):
        self.config = config
        setup.check_model(config.model)
        self.model = vos.VOS(config=config.model)
        train = config.train
        self.schedule = optim.schedule(train.optim, train.steps)
        init_key, self._run_key = jax.random.split(jax.random.key(config.seed))
        datasets = setup.datasets_of(config.model, train)
        self.params = weights.init_params(self.model, train.init, init_key, datasets)
        self._tx = optim.make_tx(train.optim, self.params, train.steps)
        self.trainer = parallel.Trainer(
            clip_loss.make_loss_fn(self.model, train.loss, train.optim.frozen),
            self._tx,
            train.parallel,
            ema_decay=train.optim.ema_decay,
        )

    def begin(self) -> state.TrainState:
        """Returns the state before the first step, on the devices."""
        init = jax.jit(functools.partial(state.init_train_state, tx=self._tx))
        return self.trainer.place(init(self.params, key=self._run_key))

    def make_data(self, batch: int) -> pipeline.BatchIterator:
        """Opens the training data, in batches of `batch` clips; VosError if they are missing."""
        data = dataclasses.replace(self.config.train.data, batch=batch)
        names = weights.datasets_of(self.params)
        return pipeline.make_pipeline(data, dataset_names=names, seed=self.config.seed)


def train(
    program: Program,
    folder: pathlib.Path,
    *,
    batch: int,
    noted: Mapping[str, Any],
    deadline: clock.Clock,
    save_every: float = 60.0,
    say: Callable[[str], None] = print,
) -> int:
    """Trains until the deadline, `train.steps` or a signal, and returns the last step.

    Resumes from a state in the folder (`state_files`). FOLDER/curve.jsonl gets a line for every
    `train.log_every`-th step.

    Args:
      program: the training program.
      folder: of the state and the curve.
      batch: clips per step.
      noted: entries of the record of the weights: "config", "commit", "command".
      deadline: no step begins that could not end and be written before it.
      save_every: seconds between two writes of the state.

    Raises:
      VosError: data are missing, the loss is no longer finite, or a file cannot be written; the last written
        state is kept.
    """
    settings, total, data = program.config.train, program.config.train.steps, program.make_data(batch)
    run, start = program.begin(), 0
    if (restored := state_files.restore(folder, jax.eval_shape(lambda: run))) is not None:
        found, position = restored
        run, start = program.trainer.place(found.replace(key=run.key)), int(found.step)
        data.set_state(position)
        say(f"training resumes from step {start}")
    run_log.keep_until(folder / CURVE, start)
    began = saved_when = logged_when = time.monotonic()
    number = saved_at = logged = start
    pending: dict[str, Any] | None = None
    slowest = save_seconds = 0.0

    def finish_step() -> None:
        """Waits for the last step, checks that its loss is finite, and logs it."""
        nonlocal pending, logged, logged_when
        if pending is None:
            return
        metrics = {name: float(value) for name, value in jax.device_get(pending).items()}
        pending = None
        if not math.isfinite(metrics["loss"]):
            raise errors.VosError(
                f"step {number}: the loss is {metrics['loss']}; {folder} keeps the state of step {saved_at}. "
                "A lower train.optim.learning_rate may help"
            )
        if number % settings.log_every == 0 or number == total:
            now = time.monotonic()
            row = {"step": number, "seconds": now - began}
            row["clips_per_second"] = (number - logged) * batch / (now - logged_when)
            row |= {"lr": float(program.schedule(number - 1)), **metrics}
            run_log.append(folder / CURVE, row)
            say(f"step {number}/{total}: loss {row['loss']:.4g}, {row['clips_per_second']:.4g} clips/s")
            logged, logged_when = number, now

    def save() -> None:
        nonlocal saved_at, saved_when, save_seconds
        finish_step()
        begin = time.monotonic()
        state_files.save(folder, jax.device_get(run), data.get_state(), noted)
        saved_at, saved_when = number, time.monotonic()
        save_seconds = saved_when - begin

    with signals.Stop() as stop:
        try:
            while number < total and stop.signal is None:
                # The previous step may still be running.
                if deadline.left() < 2 * slowest + 2 * save_seconds:
                    break
                begin = time.monotonic()
                clips = program.trainer.put_batch(next(data))
                finish_step()
                run, pending = program.trainer.step(run, clips)
                number += 1
                if number > start + 2:  # the first steps compile and start the workers
                    slowest = max(slowest, time.monotonic() - begin)
                if time.monotonic() - saved_when > save_every:
                    save()
            if number > saved_at:
                save()
        finally:
            data.close()
    return number
