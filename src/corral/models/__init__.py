"""Loading, rendering and running Llama-family models."""
