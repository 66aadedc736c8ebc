"""Areas of interest, grids of tiles, and which coarse cell each pixel lies in."""
