"""vos_jax: video object segmentation in JAX.

The Python API is `load`, `Session` and `Prompt`; see `vos_jax.inference.session`.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vos_jax.api import load
    from vos_jax.data.prompts import Prompt
    from vos_jax.inference.session import Session

# Read when JAX is imported. XLA logs a long compilation as an error; real errors are raised.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"
__all__ = ["Prompt", "Session", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # JAX is imported when the API is asked for: data tools and `--help` need not wait for it.
    if name == "load":
        from vos_jax.api import load

        return load
    if name == "Session":
        from vos_jax.inference.session import Session

        return Session
    if name == "Prompt":
        from vos_jax.data.prompts import Prompt

        return Prompt
    raise AttributeError(f"module 'vos_jax' has no attribute {name!r}")
