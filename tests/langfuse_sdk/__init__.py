"""The real SDKs of Langfuse."""
