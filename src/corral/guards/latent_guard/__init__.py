"""Latent Guard: what a chat model itself takes a prompt for, read from its hidden states (arXiv 2507.11878)."""
