"""What the programs compute on: the user's choice, checked before any work."""

import jax

from vos_jax.errors import VosError

NAMES = ("cpu", "gpu", "tpu")


def choose(name: str | None) -> str:
    """Makes JAX use `name` ("cpu", "gpu", "tpu"; None = the best there is) and returns its description.

    Call it before anything computes: JAX settles on its devices at first use.

    Raises:
        VosError: JAX sees no such device, or settled on another one before.
    """
    if name is not None:
        # Left to itself JAX prefers an accelerator; naming one would fail with JAX's own traceback.
        jax.config.update("jax_platforms", "cpu" if name == "cpu" else "")
    try:
        found = jax.default_backend()
        device = jax.devices()[0]
    except RuntimeError as error:
        raise VosError(f"JAX cannot start its devices: {str(error).splitlines()[0]}") from error
    if name is not None and found != name:
        raise VosError(f"--device {name}: JAX sees only {found} here; install JAX for {name} (see README.md)")
    return found if device.device_kind == found else f"{found} ({device.device_kind})"
