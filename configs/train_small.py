"""The shipped lite0, first stage: two CPU cores, frozen ImageNet backbone, photos and DAVIS in one run.

Command:  python train.py --config train_small --workdir runs/small
          --data static=data/static davis=data/DAVIS
Hardware: 2 CPU cores, 4 GB
Time:     some 1.0 s per step of 4 clips where nothing else runs
Expected: J 0.80 on the first 20 frames of the held-back sequences (docs/results.md)
"""

from vos_jax import config as configs

# Photos of several true instances: kept for judging multi-object masks, never trained on.
JUDGED_PHOTOS = ("coco128/*", "pennfudan/*")


def get_config():
    config = configs.default()
    # Whose lambda the evaluation takes.
    config.model.dataset = "davis"
    # One proposal in three: what matching learns from, at a third of its cost.
    config.model.num_proposals = 12
    train = config.train
    train.sources.static.weight = 0.5
    train.sources.static.exclude = JUDGED_PHOTOS
    train.sources.davis.weight = 0.5
    train.batch = 4
    train.crop = 256
    train.max_objects = 2
    train.steps = 4000
    train.optim.frozen = ("backbone",)
    train.optim.ema_decay = 0.998
    train.gap.end_step = 2400
    train.augmentation.colour = 0.3
    train.augmentation.jpeg = 0.1
    train.step.sampling_begin = 300
    train.step.oracle_end = 1500
    train.losses.hard_begin = 500
    train.losses.hard_end = 2500
    train.picture_every = 0
    train.checkpoint.every = 200
    train.evaluation.every = 1000
    train.evaluation.frames = 20
    return config
