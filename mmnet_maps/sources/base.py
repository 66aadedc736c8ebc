"""What every source of inputs answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

Rasters = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a variable comes from, as recorded in the stack and repeated in every product.

    Attributes
    ----------
    source
        The kind of source: ``"demo"``, ``"files"``, ``"earthengine"``.
    product
        The product's name, for people and for comparing with a model's training inputs.
    version, licence
        As the publisher writes them.
    synthetic
        True where the values are not observations.
    recipe
        A short hash of what was done to the product, where that can differ.
    """

    source: str
    product: str
    version: str
    licence: str
    synthetic: bool = False
    recipe: str = ""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a source likes to be asked.

    Attributes
    ----------
    reads
        Reads at a time.
    fine_days
        Days of a fine group in one read of a block, which it can share work between.
    delay
        How long after a day its products may still appear, so that finding nothing is not the last word.
    """

    reads: int
    fine_days: int
    delay: timedelta = timedelta(0)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What reading takes of a service: requests, bytes received, and values computed."""

    requests: int
    bytes: int
    values: int


@runtime_checkable
class Source(Protocol):
    """Rasters by group, window and day.

    Fine groups (``variables.FINE_GROUPS``) are delivered on whatever window of the target grid is asked for, by the
    recipe of the training data: mask, area mean of the bands (mode for land cover). Coarse groups are delivered on
    windows of the product's own lattice and are never resampled.
    """

    @property
    def name(self) -> str:
        """A short name that is stable between runs, used for the cache folder."""
        ...

    def variables(self) -> Mapping[str, Provenance]:
        """The variables it has, each with its provenance."""
        ...

    def lattice(self, group: str) -> GeoBox:
        """The whole native grid of a coarse group."""
        ...

    def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        """The days from `start` to `end`, both included, on which the group may hold values in the window."""
        ...

    def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        """Read all its variables of a group.

        Parameters
        ----------
        group
            Stack group.
        geobox
            A window of the target grid (fine groups) or of ``lattice(group)`` (coarse groups).
        days
            Days to read; for ``static`` exactly one, the day that decides which release is nearest.

        Returns
        -------
        dict of str to ndarray
            Per variable an array (time, y, x) with one entry per day, float32 in the units of `variables`, NaN where
            missing; ``landcover`` is uint8 with NLCD codes, 0 where missing.

        Raises
        ------
        InputError
            When the inputs are there but cannot be read.
        """
        ...


@runtime_checkable
class Stoppable(Protocol):
    """A source that may be waiting for an answer."""

    def stop(self) -> None:
        """Ask nothing more; reads under way end with an error."""
        ...


@runtime_checkable
class Charged(Protocol):
    """A source that asks a service, which counts."""

    def cost(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Cost:
        """What `Source.read` would ask for; `days` are those that `Source.days` gives."""
        ...
