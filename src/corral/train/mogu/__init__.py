"""MoGU's training (arXiv 2405.14488): an eager and a reluctant expert, and the routers that weigh them.

The repository of the paper has no licence; everything here is written from the paper and our specification.
"""
