"""Engines: one interface over models in this process, servers and scripts."""
