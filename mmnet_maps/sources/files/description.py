"""What a raster file is read for, and what its description holds: grid, days, packing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, lru_cache

from affine import Affine
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.crs import crs_name, same_crs
from mmnet_maps.sources.files.locations import Place


class RasterError(ValueError):
    """A file that cannot be read, though its library can: the problem, what was expected, and what to do."""


@dataclass(frozen=True, kw_only=True)
class RasterSpec:
    """A raster in a file.

    Attributes
    ----------
    path
        The file, the folder of a Zarr store, or the URL of either.
    key
        The variable that it is read for, named in errors.
    variable, band
        Name in a NetCDF, HDF5 or Zarr file; band of any other.
    crs, scale, offset, valid
        What the YAML states in place of the file.
    mask
        The file of the mask beside it, where the mask is not found by its name.
    flags
        Its numbers are flags of a mask: they have no scale, and none of them is missing.
    notes
        What users should know about the file, collected as it is described.
    """

    path: Place
    key: str
    variable: str | None = None
    band: int = 1
    crs: str | None = None
    scale: float | None = None
    offset: float | None = None
    valid: tuple[float, float] | None = None
    mask: Place | None = None
    flags: bool = False
    notes: list[str] = field(default_factory=list, compare=False)


@dataclass(frozen=True, kw_only=True)
class Raster:
    """The description of a raster: its grid, days and packing.

    Attributes
    ----------
    lattice
        Its grid, north up; longitudes from −180.
    days
        The day of each step of its time axis; None without a time axis.
    seconds
        The second of the day, in UTC, of each step of its time axis.
    scale, offset
        ``physical = stored * scale + offset``.
    nodata
        Stored numbers that mean missing.
    fill
        Number of parts of a Zarr array that were never written, where it is Zarr's default and states nothing.
    units, cell_methods
        As the file states them; empty where it does not.
    valid
        Lowest and highest valid stored number; None where the file states none.
    steps
        The position on the time axis of each of `days`.
    dims
        Dimensions of a labelled array, in order: ``time``, ``y``, ``x``, or ``one`` for a dimension of length 1.
    south_up, from_east
        Rows are stored from the south; columns are stored from the east.
    first
        The stored column, counted from the west, of the first cell of the lattice; the others follow, and then those
        before it.
    """

    spec: RasterSpec
    lattice: GeoBox
    days: tuple[date, ...] | None
    scale: float
    offset: float
    nodata: tuple[float, ...]
    dims: tuple[str, ...]
    south_up: bool = False
    from_east: bool = False
    first: int = 0
    valid: tuple[float, float] | None = None
    steps: tuple[int, ...] = ()
    seconds: tuple[int, ...] = ()
    fill: float | None = None
    units: str = ""
    cell_methods: str = ""

    def __hash__(self) -> int:
        """Hash what was described: files of years have thousands of days."""
        return hash(self.spec)

    @cached_property
    def steps_of(self) -> Mapping[date, Sequence[int]]:
        """The places of the steps of each day in `days`, `seconds` and `steps`, by day."""
        found: dict[date, list[int]] = {}
        for place, day in enumerate(self.days or ()):
            found.setdefault(day, []).append(place)
        return dict(sorted(found.items()))

    @cached_property
    def moments(self) -> Sequence[int]:
        """The times of all steps, ascending, in seconds, with days by their ordinals."""
        days = zip(self.days or (), self.seconds, strict=False)
        return sorted(day.toordinal() * 86400 + second for day, second in days)


def notice(spec: RasterSpec, text: str) -> None:
    """Note what users should know about a file; the archive logs each text once for its variable."""
    if text not in spec.notes:
        spec.notes.append(text)


def lattice_of(spec: RasterSpec, shape: tuple[int, int], affine: Affine, crs: str | None) -> tuple[GeoBox, int]:
    """Return the grid of a raster.

    Parameters
    ----------
    shape, affine, crs
        Rows and columns, geotransform (north up), and CRS as the file states them; a CRS of the YAML has precedence.

    Returns
    -------
    lattice, first
        Longitudes run from −180; `first` is the stored column of the first cell, other than 0 where a grid around the
        globe begins at another longitude.

    Raises
    ------
    RasterError
        Without a CRS, or with one from which no longitudes and latitudes follow.
    """
    lattice = GeoBox(shape, affine, chosen_crs(spec, crs))
    assert lattice.crs is not None
    if spec.crs and crs and not same_crs(crs, spec.crs, lattice):
        notice(spec, f"the CRS {crs_name(spec.crs)} of the sources YAML replaces the file's own, {crs_name(crs)}")
    if not lattice.crs.geographic:
        return lattice, 0
    width, step, left = shape[1], affine.a, affine.c
    if -180 - step <= left and left + width * step <= 180 + step:
        return lattice, 0
    first, turn = 0, -360.0 if left + width * step > 180 + step else 0.0
    if abs(width * step - 360) < step / 2:
        # The first cell whose centre is at 180° or beyond, or on from −180°.
        first = math.ceil((-180 - turn - left) / step - 0.5 - 1e-6) % width
    return GeoBox(shape, Affine(step, 0, left + first * step + turn, 0, affine.e, affine.f), lattice.crs), first


def chosen_crs(spec: RasterSpec, crs: str | None) -> str:
    """Return the CRS of the YAML, else that of the file; RasterError where it is unusable."""
    chosen = spec.crs or crs
    if chosen is None:
        raise RasterError("it states no CRS; expected one; give it as 'crs' in the sources YAML")
    if not _on_earth(chosen):
        where, what = (
            ("crs in the sources YAML", "correct it") if spec.crs else ("its CRS", "give the right one as 'crs'")
        )
        raise RasterError(
            f"{where} is {crs_name(chosen)}, which gives no longitude and latitude on the Earth; expected one such as "
            f"EPSG:5070; {what}"
        )
    return chosen


@lru_cache(maxsize=256)
def _on_earth(crs: str) -> bool:
    import pyproj

    try:
        pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    except pyproj.exceptions.ProjError:
        return False
    return True
