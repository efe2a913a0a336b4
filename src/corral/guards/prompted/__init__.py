"""What guards share that ask a language model in words: framing, escaping, fitting, loading."""
