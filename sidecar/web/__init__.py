"""The status page, which shows a running observer in a browser."""
