"""Measuring guards and models."""
