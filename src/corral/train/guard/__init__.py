"""Training guards: classifiers with heads, and language models that judge by a policy in their prompt."""
