"""Lakehouse Observer: the third-party witness beside an AI-agent gateway."""
