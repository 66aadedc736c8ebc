"""Lay out, write and read daily soil moisture products."""
