"""Crash harness: load, faults, and an oracle that says what must have survived (`make crash`, `make soak`)."""
