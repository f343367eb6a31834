"""Makes backbone weights from other projects' checkpoints: `python -m vos_jax.convert NAME SOURCE [OUT]`."""
