"""DAVIS 2016 val: one object per video (all annotated objects merged).

Command:  python eval.py --config davis16 --data data/DAVIS
Hardware: 2 CPU cores, or any JAX accelerator
Time:     not yet measured
Expected: J&F not yet measured
"""

from vos_jax import config as configs


def get_config():
    config = configs.default()
    config.data.year = 2016
    config.data.merge_objects = True
    config.eval.out = "results/davis16"
    return config
