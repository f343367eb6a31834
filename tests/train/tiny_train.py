"""A config for train.py and eval.py: the tiny model of tests/tiny.py, whose step compiles in seconds."""

from tests import tiny
from vos_jax import config as configs
from vos_jax.models import config as model_config

model_config.VARIANTS["tiny"] = tiny.VARIANT


def get_config() -> configs.Config:
    return configs.replace(
        configs.default("tiny"),
        {
            # The two stages that take longest to compile.
            "model.proposals.source": "none",
            "model.matching": "greedy",
            "train.steps": 3,
            "train.init": "random",
            "train.log_every": 1,
            "train.picture_every": 0,
            "train.data.sources.davis.weight": 1.0,
            "train.data.sources.davis.exclude": ("held",),
            "train.data.batch": 2,
            "train.data.crop": 64,
            "train.data.max_objects": 2,
            "train.data.threads": 1,
            "train.data.gap.end": 1,
            "train.optim.warmup_steps": 2,
            "train.loss.sampling_begin": 0,
            "train.loss.unroll": False,
            "train.held_out.every": 0,
            "train.held_out.sequences": ("held",),
        },
    )
