"""What everything else stands on: files, text, clocks, rotations, tensors on disk."""
