"""Array aliases used in public signatures, `Float[Array, "h w C"]`, and what type checkers need help with."""

from typing import TYPE_CHECKING

from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, PRNGKeyArray, Shaped, UInt8

if TYPE_CHECKING:
    # jax.Device is this class, but a type checker takes it for a variable.
    from jaxlib._jax import Device

    # A protocol's property is met by functools.cached_property, but not to pyright in a frozen dataclass.
    cached_property = property
else:
    from functools import cached_property

    from jax import Device

__all__ = [
    "Array",
    "Bool",
    "DTypeLike",
    "Device",
    "Float",
    "Int",
    "PRNGKeyArray",
    "Shaped",
    "UInt8",
    "cached_property",
]
