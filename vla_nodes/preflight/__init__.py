"""The measuring half of vla preflight."""
