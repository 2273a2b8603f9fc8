"""Benchmarks of the observer: throughput, latency, memory and start time, beside a no-op endpoint in the same run."""
