"""Reading videos and masks, and feeding training."""
