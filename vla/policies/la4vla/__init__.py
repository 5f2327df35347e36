"""LA4VLA: a cross-attention head on a backbone, and samples without vision."""
