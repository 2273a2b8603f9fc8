"""A small staffing gateway with agents, to see the observer at work."""
