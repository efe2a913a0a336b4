"""MoGU's routing (arXiv 2405.14488): attention outputs that mix a reluctant and an eager variant of a model, gated."""
