"""Guards, their verdicts, and the policy that turns verdicts into decisions."""
