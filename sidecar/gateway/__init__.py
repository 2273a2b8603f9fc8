"""Traffic to the agent gateway: the observing reverse proxy, the Python wrapper, and the observer's own posts."""
