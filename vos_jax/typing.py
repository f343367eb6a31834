"""Array aliases used in public signatures: `Float[Array, "h w C"]`."""

from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray, Shaped, UInt8

__all__ = ["Array", "Bool", "Float", "Int", "PRNGKeyArray", "Shaped", "UInt8"]
