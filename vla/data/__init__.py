"""Data: episodes as bags and frames, normalisation."""
