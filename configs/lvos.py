"""LVOS validation: long videos, objects may appear late; JPEGImages/VIDEO and Annotations/VIDEO.

Command:  python eval.py --config lvos --data data/LVOS/valid
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
            "data.root": "data/LVOS/valid",
            "eval.out": "results/lvos",
        },
    )
