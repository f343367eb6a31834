"""vos_jax: video object segmentation in JAX.

`from vos_jax import Segmenter` is the Python API; see `vos_jax.inference.segmenter`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vos_jax.inference.segmenter import Segmenter

__version__ = "0.1.0"
__all__ = ["Segmenter", "__version__"]


def __getattr__(name: str) -> Any:
    # JAX is imported when the segmenter is asked for: data tools and `--help` need not wait for it.
    if name == "Segmenter":
        from vos_jax.inference.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module 'vos_jax' has no attribute {name!r}")
