"""Spans on their way to the collector."""
