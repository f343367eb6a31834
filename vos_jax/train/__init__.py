"""Training the model."""
