"""Store inputs on their native grids and read them for tiles or pixels."""
