"""Overlays, figures and exported files."""
