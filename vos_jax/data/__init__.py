"""Readers of videos and masks, and the training data."""
