"""Recorded episodes for people: listed, shown in pictures and videos, opened in viewers."""
