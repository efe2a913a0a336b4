"""Measurements beside peers, each in a process of its own: what ``corral bench`` runs."""
