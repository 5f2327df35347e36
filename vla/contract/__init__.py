"""The embodiment contract: what a robot sees, says of itself and can be told; its statistics."""
