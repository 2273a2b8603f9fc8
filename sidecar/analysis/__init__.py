"""Why things fail and what works."""
