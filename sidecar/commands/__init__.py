"""The subcommands of the command line, one module each; they start the pipeline or call a running observer."""
