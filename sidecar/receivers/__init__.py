"""The doors: what comes in over HTTP and gRPC, from the corrections file, and from a Langfuse server."""
