"""The agent gateway: the wrapper that observes calls, and what their answers are summarised to."""
