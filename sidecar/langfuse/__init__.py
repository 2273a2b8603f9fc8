"""Langfuse observations and scores until they become ops: fragments of observations, and scores that judge ops."""
