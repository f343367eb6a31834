"""Running a model over a video."""
