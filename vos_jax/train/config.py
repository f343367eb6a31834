"""The settings of a training run."""

import dataclasses

from vos_jax import checks
from vos_jax.data import config as data_config
from vos_jax.data.datasets import davis
from vos_jax.train import checkpoints, clip_loss
from vos_jax.train import optim as optim_lib
from vos_jax.train import parallel as parallel_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutConfig:
    """Settings of the evaluation on sequences that are held back from training.

    Attributes:
      every: Steps between two evaluations of J, which include step 0 and the last one; 0 = none.
      root: Folder of the sequences (DAVIS layout or a folder of folders); empty = the root of the source
        davis; --data evaluation=DIR.
      sequences: The sequences; they must not be trained on.
      frames: Number of first frames of each sequence to evaluate; 0 = all.

    Raises:
      VosError: a value out of range.
    """

    every: int = 2000
    root: str = ""
    sequences: tuple[str, ...] = davis.HELD_BACK
    frames: int = 0

    def __post_init__(self):
        checks.at_least(self, 0, "every", "frames")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run of train.py.

    Attributes:
      steps: Optimiser steps of the whole run.
      init: Initial weights: "imagenet" (pretrained backbone, other networks random), "random", the name of
        weights that ship ("lite0"), or an exported .safetensors; --init.
      log_every: Steps between two progress lines.
      picture_every: Steps between two pictures in TensorBoard; 0 = none.
      data: Settings of the clips.
      loss: Settings of the loss.
      optim: Settings of the optimiser.
      parallel: Distribution over devices.
      checkpoint: Settings of the checkpoints.
      held_out: Evaluation on held-back sequences.

    Raises:
      VosError: a value out of range.
    """

    steps: int = 10_000
    init: str = "imagenet"
    log_every: int = 20
    picture_every: int = 1000
    data: data_config.ClipDataConfig = dataclasses.field(default_factory=data_config.ClipDataConfig)
    loss: clip_loss.ClipLossConfig = clip_loss.ClipLossConfig()
    optim: optim_lib.OptimConfig = dataclasses.field(default_factory=optim_lib.OptimConfig)
    parallel: parallel_lib.ParallelConfig = parallel_lib.ParallelConfig()
    checkpoint: checkpoints.CheckpointConfig = checkpoints.CheckpointConfig()
    held_out: HeldOutConfig = HeldOutConfig()

    def __post_init__(self):
        checks.at_least(self, 1, "steps", "log_every")
        checks.at_least(self, 0, "picture_every")
