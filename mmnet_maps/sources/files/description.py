"""What a raster file is read for, and what its description holds: grid, days, packing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from affine import Affine
from odc.geo.geobox import GeoBox

from mmnet_maps.sources.files.locations import Place


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
    crs
        The CRS, where the file states none.
    """

    path: Place
    key: str
    variable: str | None = None
    band: int = 1
    crs: str | None = None


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
    dims
        Dimensions of a labelled array, in order: ``time``, ``y``, ``x``, or ``one`` for a dimension of length 1.
    south_up
        Rows are stored from the south.
    """

    spec: RasterSpec
    lattice: GeoBox
    days: tuple[date, ...] | None
    scale: float
    offset: float
    nodata: tuple[float, ...]
    dims: tuple[str, ...]
    south_up: bool
    seconds: tuple[int, ...] = ()
    fill: float | None = None
    units: str = ""
    cell_methods: str = ""


def lattice_of(shape: tuple[int, int], affine: Affine, crs: str | None) -> GeoBox:
    """Return the grid of a raster, longitudes from −180; ValueError without a CRS."""
    if crs is None:
        raise ValueError("it states no CRS; expected one; give it as 'crs'")
    lattice = GeoBox(shape, affine, crs)
    if lattice.crs is not None and lattice.crs.geographic and affine.c + shape[1] * affine.a > 180 + affine.a:
        return GeoBox(shape, Affine(affine.a, 0, affine.c - 360, 0, affine.e, affine.f), crs)
    return lattice
