"""DOOR and W-DOOR (arXiv 2503.03710): refusal after harmful beginnings, and unlearning, as two terms of one loss."""
