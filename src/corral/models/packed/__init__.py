"""Packed inference over a plain Llama: no padding, shared prefixes computed once, no logits that nobody reads."""
