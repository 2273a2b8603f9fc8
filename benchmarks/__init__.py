"""What the observer costs: throughput, latency, memory and start time, beside a no-op endpoint in the same run."""
