"""A small staffing gateway with agents, to show the observer at work."""
