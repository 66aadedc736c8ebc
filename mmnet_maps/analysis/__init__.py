"""Summarise maps over polygons and at places."""
