"""First stage: pseudo-clips from photos with masks, ImageNet backbone, random heads.

Command:  python train.py --config train_static --workdir runs/static --data data/static evaluation=data/DAVIS
          (photos with masks; DAVIS is for evaluation only, which --config.train.held_out.every=0 turns off)
Small:    ... --config.train.optim.frozen=backbone --config.train.data.crop=256 --config.train.data.batch=4
          --config.train.steps=2000
Hardware: one GPU, eight, or a TPU slice: the batch is divided among the devices; "Small" is for CPUs
Time:     not yet measured
Expected: J on the seven held-back sequences of DAVIS 2016 train: not yet measured
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            "train.data.sources.static.weight": 1.0,
            "train.steps": 20_000,
            # Photos differ in colour from videos, and videos are compressed more.
            "train.data.augmentation.colour.prob": 0.5,
            "train.data.augmentation.jpeg.prob": 0.25,
            # Matching needs good proposals, which the untrained network does not give.
            "train.loss.oracle_end": 4000,
        },
    )
