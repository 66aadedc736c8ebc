"""Show maps in a browser."""
