"""Draw figures with one canvas, one watermark and one set of colour scales."""
