"""What Langfuse tells, until it is ops: fragments of observations, and scores that judge ops."""
