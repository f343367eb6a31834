"""DAVIS 2017 val: several objects per video.

Command:  python eval.py --config davis17 --data data/DAVIS
Hardware: 2 CPU cores, or any JAX accelerator
Time:     not yet measured
Expected: J&F not yet measured
"""

from vos_jax import config as configs


def get_config():
    config = configs.default()
    config.data.year = 2017
    config.model.dataset = "davis"
    config.eval.out = "results/davis17"
    return config
