"""Versioned evaluation tasks."""
