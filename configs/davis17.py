"""DAVIS 2017 val: several objects per video.

Command:  python eval.py --config davis17 --data data/DAVIS
Hardware: 2 CPU cores, or any JAX accelerator
Time:     at most 0.6 s per frame with one object (two other programs were running)
Expected: J&F 0.790 on ten sequences of one object each (docs/results.md); several objects: not yet measured
"""

from vos_jax import config as configs


def get_config():
    config = configs.default()
    config.data.year = 2017
    config.model.dataset = "davis"
    config.eval.out = "results/davis17"
    return config
