"""Perplexity and bits per byte over packaged text, corpora of the data folder, and a user's files."""
