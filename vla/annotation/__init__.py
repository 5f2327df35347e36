"""Describes the episodes of a data set in words: by a model behind an endpoint, or by the truth."""
