"""Foundations without machine learning: configuration, errors, registry, runs, journal, files, metrics, statistics."""
