"""Loss functions as pure functions."""
