"""DAVIS 2016 val: one object per video (all annotated objects merged).

Command:  python eval.py --config davis16 --data data/DAVIS
Hardware: 2 CPU cores, or any JAX accelerator
Time:     at most 0.41 s per frame; some 0.15 s with --checkpoint none
Expected: J&F 0.790 (J 0.783, F 0.797) on the ten sequences of docs/results.md; 0.587 with --checkpoint none
"""

from vos_jax import config as configs


def get_config():
    config = configs.default()
    config.data.year = 2016
    config.data.merge_objects = True
    config.model.dataset = "davis"
    config.eval.out = "results/davis16"
    return config
