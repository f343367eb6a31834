"""DAVIS 2017 test-dev: first masks only; the server scores.

Command:  python eval.py --config davis17_testdev --data data/DAVIS --zip
Hardware: 2 CPU cores, or any JAX accelerator
Time:     not yet measured
Expected: not yet measured; the server has the ground truth: send it results/davis17_testdev/submission.zip
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            "data.year": 2017,
            "data.split": "test-dev",
            # For the score, at the cost of speed; docs/results.md has the gain.
            "inference.adaptation.steps": 40,
            "eval.out": "results/davis17_testdev",
        },
    )
