"""The method's stages, one module each (DESIGN.md sections 2-7)."""
