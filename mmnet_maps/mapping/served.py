"""The other process of `apart`: its functions are called through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import MMNetError
from mmnet_maps.model.checkpoint import load_checkpoint
from mmnet_maps.model.engine import Engine, SeriesTerms
from mmnet_maps.model.prediction import Prediction


@lru_cache(maxsize=1)
def load(models: tuple[Path, ...], device: str, precision: str, draws: int, threads: int | None) -> Engine:
    """Load the engine, once; the other end makes sure that its checkpoints do not change."""
    checkpoints = [load_checkpoint(model) for model in models]
    return Engine(*checkpoints, device=device, precision=precision, draws=draws, threads=threads)


class Served:
    """The functions, by name."""

    def __init__(self) -> None:
        self._terms: Sequence[Iterable[SeriesTerms]] = ()  # of the maps of a tile

    def encode_days(
        self, loading: tuple[Any, ...], series: Mapping[str, NDArray[np.float32]], starts: Sequence[int]
    ) -> None:
        """Compute the terms of each map, and keep them."""
        self._terms = ()  # frees those of the previous tile
        self._engine = load(*loading)
        self._terms = self._engine.encode_days(series, starts)

    def predict(self, columns: Any, terms: int, series_id: Any, *, keep_members: bool) -> Prediction:
        """Estimate the target of each pixel with the terms of a map."""
        return self._engine.predict(columns, self._terms[terms], series_id, keep_members=keep_members)


def serve() -> None:
    """Answer each call with the error or None, and the result, until the other end is closed."""
    served, pipe = Served(), Connection(int(sys.argv[1]))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            name, args, options = pipe.recv()
            try:
                found = getattr(served, name)(*args, **options)
            except (MMNetError, OSError) as error:
                pipe.send((error, None))
            else:
                pipe.send((None, found))
