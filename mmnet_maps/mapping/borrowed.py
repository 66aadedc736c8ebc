"""Coarse cells without a value of their own that a map fills from a neighbouring cell, counted over its tiles."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import counted
from mmnet_maps.stack.reader import Block
from mmnet_maps.stack.store import Stack

log = logging.getLogger("mmnet_maps")


class Borrowed:
    """Cells that maps use, and those of them that are gap-filled on any day, by variable; each cell counts once."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._cells: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}

    def add(self, block: Block) -> None:
        """Add the cells of a tile, unless the report would not be shown, as in the workers of a batch."""
        if not log.isEnabledFor(logging.INFO):
            return
        for name, cells in block.cells.items():
            if name not in self._cells:
                height, width = self._stack.group_of(name).lattice.shape
                self._cells[name] = np.zeros(height * width, bool), np.zeros(height * width, bool)
            used, filled = self._cells[name]
            used[cells] = True
            filled[block.borrowed[name]] = True

    def report(self) -> None:
        """Log the variables that have such cells."""
        for name, (used, filled) in self._cells.items():
            if count := int(np.count_nonzero(filled)):
                of = counted(int(np.count_nonzero(used)), "cell")
                log.info("%s: %s of %s filled from a neighbouring cell", name, f"{count:,}", of)
