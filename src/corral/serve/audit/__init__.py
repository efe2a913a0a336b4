"""The audit log: one row a decision, committed before the answer leaves, each chained to the one before by a hash."""
