"""Pairwise win rate by a judge engine: both orders, ties, position bias, length control."""
