"""``corral bench guard-throughput``: guards beside transformers and vLLM, on one machine and in one run."""
