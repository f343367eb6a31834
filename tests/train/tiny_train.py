"""A config for train.py and eval.py: the tiny model of tests/tiny.py, whose step compiles in seconds."""

from tests import tiny
from vos_jax import config as configs
from vos_jax.models import vos

vos.VARIANTS["tiny"] = tiny.CONFIG


def get_config():
    config = configs.default()
    config.model.variant = "tiny"
    # The two stages that take longest to compile.
    config.model.proposals = "none"
    config.model.matching = "greedy"
    config.memory.capacity = 3
    train = config.train
    train.sources.davis.weight = 1.0
    train.sources.davis.exclude = ("held",)
    train.init = "random"
    train.batch, train.crop, train.max_objects = 2, 64, 2
    train.threads = 1
    train.steps = 3
    train.log_every = 1
    train.picture_every = 0
    train.optim.warmup_steps = 2
    train.step.sampling_begin = 0
    train.step.unroll = False
    train.gap.end = 1
    train.evaluation.every = 0
    train.evaluation.sequences = ("held",)
    return config
