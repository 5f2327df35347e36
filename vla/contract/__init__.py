"""The embodiment contract: what a robot observes and what commands it takes; statistics."""
