"""Second stage with YouTube-VOS: the paper's second row.

Command:  python -m vos_jax.tools.export runs/static runs/static.safetensors
          python train.py --config train_davis_ytvos --workdir runs/davis_ytvos --init runs/static.safetensors
          --data static=data/static davis=data/DAVIS youtube_vos=data/YouTubeVOS
          --config.model.variant=resnet50
Hardware: eight GPUs or a TPU slice (docs/scaling.md)
Time:     not yet measured
Expected: not yet measured (the paper, DAVIS 2016 val: J 90.5, F 92.3)
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            # Data set of the evaluation's lambda.
            "model.dataset": "davis",
            # In proportion to its videos DAVIS would give one clip in sixty; its finer masks are worth more.
            "train.data.sources.youtube_vos.weight": 0.75,
            "train.data.sources.davis.weight": 0.15,
            "train.data.sources.static.weight": 0.1,
            "train.steps": 100_000,
            "train.data.batch": 16,
            # Every fifth frame of YouTube-VOS has a mask, so a gap of 5 skips 25 frames of video.
            "train.data.gap.end": 5,
            "train.data.gap.end_step": 30_000,
            "train.optim.learning_rate": 2e-4,
            "train.data.augmentation.colour.prob": 0.25,
            "train.loss.sampling_begin": 0,
            "train.loss.hard_begin": 0,
            "train.loss.hard_end": 5000,
            "train.held_out.every": 5000,
        },
    )
