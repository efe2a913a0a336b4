"""Taxonomies of harm and the crosswalks between them, as YAML."""
