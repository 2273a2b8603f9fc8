"""The status page: one look at a running observer, in a browser."""
