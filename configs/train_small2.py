"""The shipped lite0, second stage: longer clips, predicted previous masks; C4 and C5 are trained, too.

Command:  python train.py --config train_small2 --workdir runs/small2 --init vos_jax/weights/lite0.safetensors
          --data static=data/static davis=data/DAVIS
Hardware: 2 CPU cores, 5 GB
Time:     about 1.5 s per step of 4 clips on an idle machine
Expected: docs/results.md
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.load("train_small"),
        {
            "train.steps": 1200,
            "train.data.clip_length": 4,
            "train.data.gap.start": 8,
            "train.data.gap.end_step": 400,
            # An object in the background that looks like the segmented one is a hard negative.
            "train.data.augmentation.objects.drop": 0.2,
            # Masks drift because each depends on the previous one: train with predicted ones, as in tests.
            "train.loss.sampling_begin": 0,
            "train.loss.sampling_prob": 1.0,
            "train.loss.oracle_end": 0,
            "train.loss.hard_begin": 0,
            "train.loss.hard_end": 1,
            "train.optim.learning_rate": 3e-4,
            "train.optim.warmup_steps": 50,
            # C2 and C3 keep ImageNet's features, because training at high resolution is slow.
            "train.optim.frozen": ("backbone/stem", "backbone/stage1", "backbone/stage2", "backbone/stage3"),
            "train.checkpoint.every": 100,
            "train.held_out.every": 400,
        },
    )
