"""What a recipe runs, one file for each system."""
