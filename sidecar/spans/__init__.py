"""Every operation is a span: op ⇄ span, the tracer provider, and the processor that turns ended spans into ops."""
