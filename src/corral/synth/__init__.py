"""Making training data: journaled generation steps over any engine, and the pipelines made of them."""
