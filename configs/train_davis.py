"""Second stage: clips of DAVIS train with a growing gap, mixed with pseudo-clips from photos.

Command:  python -m vos_jax.tools.export runs/static runs/static.safetensors
          python train.py --config train_davis --workdir runs/davis --init runs/static.safetensors
          --data static=data/static davis=data/DAVIS
Small:    ... --config.train.optim.frozen=backbone --config.train.data.crop=256 --config.train.data.batch=4
          --config.train.steps=2000 --config.train.data.gap.end_step=1500
Hardware: one GPU, eight, or a TPU slice: the batch is divided among the devices; "Small" is for CPUs
Time:     not yet measured
Expected: J on the seven held-back sequences of DAVIS 2016 train: not yet measured
          (the paper, DAVIS 2016 val, ResNet-50, all of DAVIS train: J 88.1, F 89.3)
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            # Data set of the evaluation's lambda.
            "model.dataset": "davis",
            # DAVIS has only sixty videos: photos preserve the variety of the first stage.
            "train.data.sources.davis.weight": 0.6,
            "train.data.sources.static.weight": 0.4,
            "train.steps": 20_000,
            "train.optim.learning_rate": 2e-4,
            "train.data.augmentation.colour.prob": 0.25,
            # No easy start is needed after the first stage.
            "train.loss.sampling_begin": 0,
            "train.loss.hard_begin": 0,
            "train.loss.hard_end": 2000,
        },
    )
