"""Published comparison tables as package data, and their loader."""
