"""General language and vision models as judges: asked in words, answering with a small JSON object."""
