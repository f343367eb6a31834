"""The stages of the method, one module each (docs/method.md)."""
