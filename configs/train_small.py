"""The shipped lite0, first stage: two CPU cores, frozen ImageNet backbone, photos and DAVIS in one run.

Command:  python train.py --config train_small --workdir runs/small
          --data static=data/static davis=data/DAVIS
Hardware: 2 CPU cores, 4 GB
Time:     about 1.0 s per step of 4 clips on an idle machine
Expected: J 0.80 on the first 20 frames of the held-back sequences (docs/results.md)
"""

from vos_jax import config as configs

# Photos with several labelled instances: only for the evaluation of several objects, never trained on.
JUDGED_PHOTOS = ("coco128/*", "pennfudan/*")


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            # Data set of the evaluation's lambda.
            "model.dataset": "davis",
            # A third of the default's proposals are enough to train the matching, at a third of the cost.
            "model.proposals.capacity": 12,
            "train.data.sources.static.weight": 0.5,
            "train.data.sources.static.exclude": JUDGED_PHOTOS,
            "train.data.sources.davis.weight": 0.5,
            "train.data.batch": 4,
            "train.data.crop": 256,
            "train.data.max_objects": 2,
            "train.steps": 4000,
            "train.optim.frozen": ("backbone",),
            "train.optim.ema_decay": 0.998,
            "train.data.gap.end_step": 2400,
            "train.data.augmentation.colour.prob": 0.3,
            "train.data.augmentation.jpeg.prob": 0.1,
            "train.loss.sampling_begin": 300,
            "train.loss.oracle_end": 1500,
            "train.loss.hard_begin": 500,
            "train.loss.hard_end": 2500,
            "train.picture_every": 0,
            "train.checkpoint.every": 200,
            "train.held_out.every": 1000,
            "train.held_out.frames": 20,
        },
    )
