"""What is kept: ring, journals, state, live feed."""
