"""Llama Guard, generations 1 to 4: a language model judges by a policy written in its prompt (arXiv 2312.06674)."""
