"""Storage: ring, journals, state, live feed."""
