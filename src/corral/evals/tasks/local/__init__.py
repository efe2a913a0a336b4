"""Self-written items and texts of the local ability tasks; ``README.md`` is their card. Licence Apache-2.0."""
