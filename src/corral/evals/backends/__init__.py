"""Other projects' evaluation harnesses as scorecard tasks; each is optional."""
