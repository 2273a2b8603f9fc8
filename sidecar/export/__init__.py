"""Export of spans, metrics and posts: OTLP to the collector, Langfuse, the outbox."""
