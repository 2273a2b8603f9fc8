"""Doors: what comes in over HTTP, and from the corrections file."""
