"""Advice: what agents are told before their next attempt, and whether it helps."""
