"""The Long-Time Video set: thousands of frames per video, a few of them annotated.

Command:  python eval.py --config long_video --data data/LongVideo
Hardware: 2 CPU cores, or any JAX accelerator
Time:     not yet measured
Expected: not yet measured
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            "data.kind": "folders",
            "data.root": "data/LongVideo",
            "eval.out": "results/long_video",
        },
    )
