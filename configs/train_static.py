"""First stage: pseudo-clips from photos with masks, ImageNet backbone, random heads.

Command:  python train.py --config train_static --workdir runs/static --data data/static evaluation=data/DAVIS
          (photos with masks; DAVIS is only evaluated on, --config.train.evaluation.every=0 does without)
Small:    ... --config.train.optim.frozen=backbone --config.train.crop=256 --config.train.batch=4
          --config.train.steps=2000
Hardware: one GPU, eight, or a TPU slice: the batch is divided among whatever there is; "Small" is for CPUs
Time:     not yet measured
Expected: J on the seven held-back sequences of DAVIS 2016 train: not yet measured
"""

from vos_jax import config as configs


def get_config():
    config = configs.default()
    train = config.train
    train.sources.static.weight = 1.0
    train.steps = 20_000
    # Photos differ in colour from video, and video is compressed harder.
    train.augmentation.colour = 0.5
    train.augmentation.jpeg = 0.25
    # A network that finds nothing yet teaches matching nothing.
    train.step.oracle_end = 4000
    return config
