"""YouTube-VOS 2019 validation: objects may appear late; only the frames in meta.json are results.

Command:  python eval.py --config ytvos19 --data data/YouTubeVOS2019 --zip
          (--config.data.all_frames=data/YouTubeVOS2019/valid_all_frames segments every frame)
Hardware: 2 CPU cores, or any JAX accelerator
Time:     not yet measured
Expected: not yet measured; the server has the ground truth: send it results/ytvos19/submission.zip
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            "data.kind": "youtube_vos",
            "data.root": "data/YouTubeVOS2019",
            "data.year": 2019,
            "data.split": "valid",
            "eval.out": "results/ytvos19",
        },
    )
