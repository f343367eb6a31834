"""The paper's settings, as far as its text gives them: ResNet-50, 352 x 352 crops, DAVIS after pseudo-clips.

Command:  python -m vos_jax.tools.convert resnet50 resnet50-XXXXXXXX.pth vos_jax/weights/resnet50.safetensors
          python train.py --config train_static --config.model.variant=resnet50 --workdir runs/paper_static
          --data static=data/static evaluation=data/DAVIS
          python -m vos_jax.tools.export runs/paper_static runs/paper_static.safetensors
          python train.py --config paper --workdir runs/paper --init runs/paper_static.safetensors
          --data static=data/static davis=data/DAVIS
Hardware: eight GPUs or a TPU slice (docs/scaling.md); --config.train.parallel.accumulate=2 saves memory
Time:     not yet run; estimate: 0.8 h on 8 v5e after 0.2 h of train_static (docs/scaling.md)
Expected: DAVIS 2016 val J 88.1, F 89.3 (the paper's Table 1, without YouTube-VOS); not yet run here

The paper gives the augmentation (one scale of [1, 1.5], flips in space and time with p = 0.5, 352 x 352) and
the matching layer (10 steps of 5 cycles, step 0.1), which are the defaults. Steps, batch and learning rate
are ours. For its second row (with YouTube-VOS): train_davis_ytvos with --config.model.variant=resnet50.
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            "model.variant": "resnet50",
            "model.dataset": "davis",
            "train.data.sources.davis.weight": 0.6,
            "train.data.sources.static.weight": 0.4,
            "train.data.batch": 16,
            "train.steps": 40_000,
            "train.optim.learning_rate": 1e-4,
            "train.data.gap.end_step": 20_000,
            "train.data.augmentation.colour.prob": 0.25,
            "train.loss.sampling_begin": 0,
            "train.loss.hard_begin": 0,
            "train.loss.hard_end": 4000,
            "train.held_out.every": 4000,
        },
    )
