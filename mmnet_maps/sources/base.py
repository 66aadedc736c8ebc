"""The protocol of sources of inputs, and the values that sources and stacks exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol, runtime_checkable
from zlib import crc32

from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError

Rasters = dict[str, NDArray[Any]]


class SourceDownError(InputError):
    """A service gives nothing of a product now; other products may still be fetched."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The origin of a variable, as recorded in the stack and repeated in every product.

    Attributes
    ----------
    source
        The kind of source: ``"demo"``, ``"files"``, ``"earthengine"``, ``"open"``.
    product
        The product's name, for people and for comparison with a model's training inputs.
    version, licence
        As the publisher writes them.
    synthetic
        True where the values are not observations.
    recipe
        A short hash of how the product was processed, where that is configurable.
    """

    source: str
    product: str
    version: str
    licence: str
    synthetic: bool = False
    recipe: str = ""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The number and size of reads that suit a source.

    Attributes
    ----------
    reads
        Concurrent reads.
    fine_days
        Days of a fine group in one read of a block; a source may share work between them.
    """

    reads: int
    fine_days: int


@dataclass(frozen=True, kw_only=True)
class Revision:
    """The state of the inputs of a day, without reading them.

    Attributes
    ----------
    stamps
        For each variable that has an input on the day, a number that changes when that input does.
    final
        False while the publisher may still add or replace inputs.
    known
        False where the inputs cannot be looked up now, as those of a server that does not answer.
    """

    stamps: Mapping[str, int]
    final: bool = True
    known: bool = True

    @property
    def number(self) -> int:
        """As stacks keep it: an odd uint32 where it is final, else an even one; 0 only where it is not known."""
        if not self.known:
            return 0
        stamp = crc32(repr(sorted(self.stamps.items())).encode()) | 2
        return stamp | 1 if self.final else stamp & ~1


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of reading from a service.

    Attributes
    ----------
    requests, bytes
        Requests sent, and bytes received.
    values
        Values that the service computes.
    eecu_hours
        What Earth Engine is likely to charge for computing them.
    ranges
        Of the requests, those for parts of files, which are answered soon.
    """

    requests: int
    bytes: int
    values: int
    eecu_hours: float = 0.0
    ranges: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both."""
        return Cost(
            requests=self.requests + other.requests,
            bytes=self.bytes + other.bytes,
            values=self.values + other.values,
            eecu_hours=self.eecu_hours + other.eecu_hours,
            ranges=self.ranges + other.ranges,
        )


@runtime_checkable
class Source(Protocol):
    """Rasters by group, window and day.

    Fine groups (``variables.FINE_GROUPS``) are read on any window of the target grid, by the recipe of the training
    data: mask, area mean of the bands (mode for land cover). Coarse groups are read on windows of the product's own
    lattice and are never resampled.
    """

    @property
    def name(self) -> str:
        """A short name that is stable between runs; it names the cache folder."""
        ...

    def variables(self) -> Mapping[str, Provenance]:
        """Return the variables of the source, each with its provenance."""
        ...

    def lattice(self, group: str) -> GeoBox:
        """Return the whole native grid of a coarse group."""
        ...

    def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        """Return the days from `start` to `end`, both included, on which the group may hold values in the window."""
        ...

    def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        """Read all variables of a group.

        Parameters
        ----------
        group
            Stack group.
        geobox
            A window of the target grid (fine groups) or of ``lattice(group)`` (coarse groups).
        days
            Days to read; of a group without a time axis each decides the nearest release.

        Returns
        -------
        dict of str to ndarray
            For each variable an array (time, y, x) with one entry per day: float32 in the units of `variables`, NaN
            where missing; ``landcover`` is uint8 with NLCD codes, 0 where missing.

        Raises
        ------
        InputError
            When the inputs exist but cannot be read.
        """
        ...


def one_grid(source: str, group: str, grids: Mapping[str, GeoBox]) -> GeoBox:
    """Return the grid that all products of a coarse group share.

    Parameters
    ----------
    source
        Name of the source.
    group
        Stack group.
    grids
        The grid of each product in use.

    Raises
    ------
    InputError
        There is none, or several have different grids.
    """
    if not grids:
        raise InputError(f"no product of the group {group} in the sources {source}; expected one; add it to 'use'")
    first, *others = grids.values()
    if any(other != first for other in others):
        raise InputError(
            f"the products {', '.join(grids)} have different grids; expected one grid for {group}; use one product"
        )
    return first


@runtime_checkable
class Revised(Protocol):
    """A source whose inputs may be published late, replaced or removed; others never change."""

    def revisions(self, group: str, geobox: GeoBox, days: Sequence[date], today: date) -> list[Revision]:
        """Return the state of the inputs of each day in a window, without reading values.

        Parameters
        ----------
        group, geobox, days
            As `Source.read`; days are ascending.
        today
            The day on which the inputs are looked at.
        """
        ...


@runtime_checkable
class Choosing(Protocol):
    """A source with several products for a variable."""

    def choose(
        self, geobox: GeoBox, days: Mapping[str, Sequence[date]], held: Mapping[str, Provenance], today: date
    ) -> None:
        """Choose the product of each variable that is read from now on: what a stack holds, else what can be had.

        Parameters
        ----------
        geobox
            The area that will be read.
        days
            Days to be read of each group, ascending.
        held
            Provenance of the variables in the stack, empty for a new one: a stack holds one product of each.
        today
            The last day on which anything can exist.
        """
        ...


@runtime_checkable
class Gathering(Protocol):
    """A source whose requests cost the same for a few cells as for many."""

    def side(self, group: str) -> int | None:
        """Return how many cells of a coarse group, a side, points best share a read; None where it does not matter."""
        ...


@runtime_checkable
class Stoppable(Protocol):
    """A source whose reads can be stopped."""

    def stop(self) -> None:
        """Start no further reads; those under way end with an error."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A source that drops values before they are read."""

    def report(self) -> None:
        """Log, once a variable, how many values were dropped since the last report."""
        ...


@runtime_checkable
class Served(Protocol):
    """A source whose products come from several services."""

    def services(self) -> list[tuple[str, ...]]:
        """Return, for people, each product in use with its variables, service, login, and what is tried next."""
        ...


@runtime_checkable
class Charged(Protocol):
    """A source that sends requests to a service."""

    def cost(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Cost:
        """Return the cost of `Source.read`; `days` are those that `Source.days` returns."""
        ...
