"""What the command line's words do, one module each; they start the pipeline or talk to a running observer."""
