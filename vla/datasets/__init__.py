"""Data sets to learn from: frames, samples, conversations, annotations."""
