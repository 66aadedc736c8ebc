"""Build training tables; train, evaluate and explain networks."""
