"""Define, load and run the networks."""
