"""The shipped lite0, second stage: longer clips, judged by its own previous masks, C4 and C5 learn with it.

Command:  python train.py --config train_small2 --workdir runs/small2 --init vos_jax/weights/lite0.safetensors
          --data static=data/static davis=data/DAVIS
Hardware: 2 CPU cores, 5 GB
Time:     some 1.5 s per step of 4 clips where nothing else runs
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
            # A look-alike that nobody follows is what a follower must learn to leave alone.
            "train.data.augmentation.objects.drop": 0.2,
            # Masks drift because each builds on the one before: learn from predicted ones only, as met later.
            "train.loss.sampling_begin": 0,
            "train.loss.sampling_prob": 1.0,
            "train.loss.oracle_end": 0,
            "train.loss.hard_begin": 0,
            "train.loss.hard_end": 1,
            "train.optim.learning_rate": 3e-4,
            "train.optim.warmup_steps": 50,
            # Up to C3 ImageNet's features stay: high resolution is where the time goes.
            "train.optim.frozen": ("backbone/stem", "backbone/stage1", "backbone/stage2", "backbone/stage3"),
            "train.checkpoint.every": 100,
            "train.held_out.every": 400,
        },
    )
