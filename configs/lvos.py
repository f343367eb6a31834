"""LVOS validation: long videos, objects may come late; JPEGImages/VIDEO and Annotations/VIDEO.

Command:  python eval.py --config lvos --data data/LVOS/valid
Hardware: 2 CPU cores, or any JAX accelerator
Time:     not yet measured
Expected: not yet measured
"""

from vos_jax import config as configs


def get_config():
    config = configs.default()
    config.data.source = "folders"
    config.data.root = "data/LVOS/valid"
    config.eval.out = "results/lvos"
    return config
