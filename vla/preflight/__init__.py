"""What vla preflight judges, from what was measured."""
