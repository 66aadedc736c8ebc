"""Train every network in every scenario and report the results."""
