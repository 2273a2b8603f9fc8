"""Against drain3, run by `make test-drain3`."""
