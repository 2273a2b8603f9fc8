"""Agents that trace themselves; `make test-agents` installs them."""
