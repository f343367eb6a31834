"""The long run of lite0: photos and DAVIS train together, several objects, wrong masks in the memory.

Data:     python -m vos_jax.data.build --kind static --root data/static --out packed
              --exclude "coco128/*" "pennfudan/*"
          python -m vos_jax.data.build --kind davis_folder --root data/DAVIS --out packed
              --exclude bmx-bumps car-turn dance-jump dog-agility flamingo horsejump-low scooter-gray
Command:  python train.py --config train_lite0 --workdir runs/lite0 --init vos_jax/weights/lite0.safetensors
          --data static=packed/packed_sequences/static/1.0.0 davis=packed/packed_sequences/DAVIS/1.0.0
          evaluation=data/DAVIS
          (the same command goes on where it was stopped)
Hardware: 2 CPU cores, 6 GB
Time:     docs/lab/lite0.md
Expected: docs/lab/lite0.md
"""

from vos_jax import config as configs


def get_config():
    config = configs.load("train_small2")
    config.unlock()
    train = config.train
    train.sources.static.weight = 0.6
    train.sources.davis.weight = 0.4
    # Of these a photo or video may show more than its mask says.
    train.sources.static.partial = (
        "animals_caltech/*",
        "davis17_challenge_firstframes/*",
        "humanseg/*",
        "voc2012/*",
        "weizmann_horse/*",
    )
    train.sources.davis.partial = ("*",)
    # 100,000 clips.
    train.steps = 25_000
    train.max_objects = 3
    train.gap.start = 4
    train.gap.end_step = 5_000
    train.optim.warmup_steps = 200
    train.optim.ema_decay = 0.999
    train.augmentation.colour = 0.5
    train.augmentation.jpeg = 0.2
    train.augmentation.blur = 0.1
    train.augmentation.drift = 0.3
    train.augmentation.motion = 1.5
    train.paste.prob = 0.5
    # What late frames of a video find in the memory: masks that have drifted.
    train.corruption.take = 0.3
    train.corruption.lose = 0.2
    train.corruption.grow = 0.2
    train.checkpoint.every = 200
    train.evaluation.every = 2_000
    train.evaluation.frames = 30
    return config
