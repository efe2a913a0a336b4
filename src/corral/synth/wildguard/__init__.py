"""WildGuard's training data: contrast prompts, adversarial wrapping, reply pairs, complex replies, label filter."""
