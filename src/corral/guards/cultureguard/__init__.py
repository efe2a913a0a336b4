"""CultureGuard: safety of a request and its reply in any language, as a JSON object (arXiv 2508.01710)."""
