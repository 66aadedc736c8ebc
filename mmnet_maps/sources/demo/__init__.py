"""Generate the synthetic demo world."""
