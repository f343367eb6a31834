"""DAVIS 2016 val: one object per video (all annotated objects merged).

Command:  python eval.py --config davis16 --data data/DAVIS
Hardware: 2 CPU cores, or any JAX accelerator
Time:     some 0.3 s per frame with --checkpoint none
Expected: J&F 0.587 (J 0.601, F 0.574) with --checkpoint none on the ten sequences of docs/results.md
"""

from vos_jax import config as configs


def get_config():
    config = configs.default()
    config.data.year = 2016
    config.data.merge_objects = True
    config.model.dataset = "davis"
    config.eval.out = "results/davis16"
    return config
