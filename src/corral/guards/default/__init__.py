"""The trained default guard: its network, weights and model card."""
