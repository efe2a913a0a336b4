"""Attacks on a guarded or aligned model, and the judges that decide whether one succeeded."""
