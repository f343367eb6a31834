"""MOSE validation: crowds and occlusion; only first masks are public, the server computes the scores.

Command:  python eval.py --config mose --data data/MOSE/valid --zip
Hardware: 2 CPU cores, or any JAX accelerator
Time:     not yet measured
Expected: not yet measured; the server has the ground truth: send it results/mose/submission.zip
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            "data.kind": "folders",
            "data.root": "data/MOSE/valid",
            "eval.out": "results/mose",
        },
    )
