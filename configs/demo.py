"""Segmentation of a rendered video with exact ground truth; needs no download.

Command:  make demo   (python eval.py --config demo --overlay)
Hardware: 2 CPU cores
Time:     33 s, including 9 s of compilation; 18 s with --checkpoint none
Expected: J&F 0.953 (J 0.957, F 0.949); 0.941 (J 0.912, F 0.971) with --checkpoint none
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            "data.kind": "rendered",
            "data.root": "",
            "data.split": "demo",
            "eval.out": "results/demo",
            "eval.overlay": True,
            # Segment again, instead of showing the masks of an earlier run.
            "eval.overwrite": True,
        },
    )
