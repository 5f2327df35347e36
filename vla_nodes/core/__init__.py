"""What every node is made of: parameters, QoS, diagnostics, liveliness, sources, requests."""
