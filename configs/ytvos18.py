"""YouTube-VOS 2018 validation: objects may appear late; only the frames in meta.json are results.

Command:  python eval.py --config ytvos18 --data data/YouTubeVOS2018 --zip
          (--config.data.all_frames=data/YouTubeVOS2018/valid_all_frames segments every frame)
Hardware: 2 CPU cores, or any JAX accelerator
Time:     not yet measured
Expected: not yet measured; the server has the ground truth: send it results/ytvos18/submission.zip
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            "data.kind": "youtube_vos",
            "data.root": "data/YouTubeVOS2018",
            "data.year": 2018,
            "data.split": "valid",
            "eval.out": "results/ytvos18",
        },
    )
