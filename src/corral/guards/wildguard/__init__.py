"""WildGuard: harm of the request, refusal, and harm of the reply in one answer (arXiv 2406.18495)."""
