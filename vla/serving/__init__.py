"""One copy of a policy in memory that serves several robots over a network."""
