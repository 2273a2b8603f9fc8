"""Tests against the real Collector and Jaeger; `make peers` builds them, `make test-peers` runs these."""
