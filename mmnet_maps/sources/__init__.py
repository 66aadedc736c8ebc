"""Where inputs come from: native rasters of a window, on the product's own grid."""
