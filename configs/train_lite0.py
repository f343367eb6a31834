"""The long run of lite0: photos and DAVIS train, several objects, wrong masks in the memory.

Data:     python -m vos_jax.tools.pack_data --root data/static --out packed
              --exclude "coco128/*" "pennfudan/*"
          python -m vos_jax.tools.pack_data --root data/DAVIS --out packed
              --exclude bmx-bumps car-turn dance-jump dog-agility flamingo horsejump-low scooter-gray
Command:  python train.py --config train_lite0 --workdir runs/lite0 --init vos_jax/weights/lite0.safetensors
          --data static=packed/packed_sequences/static/1.0.0 davis=packed/packed_sequences/DAVIS/1.0.0
          evaluation=data/DAVIS
          (the same command resumes the run)
Hardware: 2 CPU cores, 6 GB
Time:     docs/lab/lite0.md
Expected: docs/lab/lite0.md
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.load("train_small2"),
        {
            "train.data.sources.static.weight": 0.6,
            "train.data.sources.davis.weight": 0.4,
            # In these data some objects are not labelled.
            "train.data.sources.static.partial": (
                "animals_caltech/*",
                "davis17_challenge_firstframes/*",
                "humanseg/*",
                "voc2012/*",
                "weizmann_horse/*",
            ),
            "train.data.sources.davis.partial": ("*",),
            # 100,000 clips.
            "train.steps": 25_000,
            "train.data.max_objects": 3,
            "train.data.gap.start": 4,
            "train.data.gap.end_step": 5_000,
            "train.optim.warmup_steps": 200,
            "train.optim.ema_decay": 0.999,
            "train.data.augmentation.colour.prob": 0.5,
            "train.data.augmentation.jpeg.prob": 0.2,
            "train.data.augmentation.blur.prob": 0.1,
            "train.data.augmentation.drift.prob": 0.3,
            "train.data.pseudo.motion": 1.5,
            "train.data.paste.prob": 0.5,
            # Late in a video the memory contains drifted masks.
            "train.loss.corruption.take": 0.3,
            "train.loss.corruption.lose": 0.2,
            "train.loss.corruption.grow": 0.2,
            "train.checkpoint.every": 200,
            "train.held_out.every": 2_000,
            "train.held_out.frames": 30,
        },
    )
