"""Map areas and points: from a request to a written product."""
