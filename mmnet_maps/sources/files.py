"""A user's own rasters as a source: GeoTIFF, NetCDF, Zarr, in any CRS and on any grid, described by a YAML file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.config import UNITS, VariableFiles, load_sources
from mmnet_maps.errors import InputError
from mmnet_maps.grid import Window, cover, pinned_blocks, pixel_centres, window_of
from mmnet_maps.sources.base import Provenance, Rasters
from mmnet_maps.sources.rasters import Raster, RasterSpec, describe, read_window
from mmnet_maps.sources.terrain import slope_aspect
from mmnet_maps.variables import FINE_GROUPS, VARIABLES, Variable

_BLOCK = 256
_METRES_PER_DEGREE = 111_320.0
_DERIVED = ("slope", "aspect")


class FilesSource:
    """Rasters listed in a YAML file (schema: `mmnet_maps.config.SourcesConfig`).

    Fine variables become area means (land cover: the most frequent class) of their valid pixels on the grid asked
    for; where a file is coarser than that grid, it is interpolated bilinearly (land cover: nearest). Where several
    files of a day lie side by side, the first with a value counts. Coarse variables stay on the file's own lattice;
    of several fields a day the mean is taken where at least half are valid. Slope and aspect follow from the averaged
    elevation where they are not listed.

    Parameters
    ----------
    path
        The YAML file.

    Raises
    ------
    RequestError
        When the YAML cannot be read or something in it is not allowed.
    """

    def __init__(self, path: str | Path) -> None:
        self._config, self._folder = load_sources(path)

    @property
    def name(self) -> str:
        """The YAML's name and a hash of its content, the folder, and the files' sizes and times of change."""
        digest = hashlib.sha256(f"{self._config.model_dump_json()} {self._folder.resolve()}".encode())
        for entry in self._config.variables.values():
            for text in (text for paths in (entry.files, *entry.dates.values()) for text in paths):
                file = self._folder / text
                if file.exists():
                    digest.update(f"{text} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
        return f"{self._config.name}-{digest.hexdigest()[:8]}"

    @property
    def rest(self) -> str | None:
        """Where variables come from that are not listed: ``"demo"``, or None for nowhere."""
        return self._config.rest

    def variables(self) -> Mapping[str, Provenance]:
        """The listed variables, and slope and aspect where elevation is listed and they are not."""
        found = {
            name: Provenance(source="files", product=entry.product, version=entry.version, licence=entry.licence)
            for name, entry in self._config.variables.items()
        }
        if "elevation" in found:
            for name in _DERIVED:
                found.setdefault(name, found["elevation"])
        return found

    def lattice(self, group: str) -> GeoBox:
        """The grid of the files of a coarse group, north up.

        Raises
        ------
        InputError
            When the group is not listed, or its files do not share one grid.
        """
        first: Raster | None = None
        for name in self._listed(group):
            for _, specs in self._dated(name):
                for raster in map(describe, specs):
                    first = first or raster
                    if not _same(raster.lattice, first.lattice):
                        raise InputError(
                            f"{name}: {raster.spec.path} lies on another grid than {first.spec.path}; all files of the "
                            f"group {group} must share one: list the others in a sources YAML of their own"
                        )
        if first is None:
            raise InputError(f"the sources {self._config.name} list no variable of the group {group}; add one")
        return first.lattice

    def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        """The days with a file whose grid meets the window; for ``static`` every day.

        Raises
        ------
        InputError
            When a file is broken, or nothing says which day it is of.
        """
        if group == "static":
            return [date.fromordinal(day) for day in range(start.toordinal(), end.toordinal() + 1)]
        found = set()
        for name in self._listed(group):
            for day, specs in self._dated(name):
                if start <= day <= end and day not in found and any(_meets(geobox, spec) for spec in specs):
                    found.add(day)
        return sorted(found)

    def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        """Read the group's variables; see `mmnet_maps.sources.base.Source.read`."""
        names = self._listed(group)
        if group not in FINE_GROUPS:
            return {name: np.stack([self._coarse(name, geobox, day) for day in days]) for name in names}
        found = {}
        if "elevation" in names and not set(_DERIVED) <= set(names):
            margins = [self._fine("elevation", geobox.pad(1), day) for day in days]
            layers = [{"elevation": margin[1:-1, 1:-1], **_terrain(margin, geobox)} for margin in margins]
            found = {name: np.stack([layer[name] for layer in layers]) for name in layers[0]}
        for name in names:
            if name not in found or name in _DERIVED:
                found[name] = np.stack([self._fine(name, geobox, day) for day in days])
        return found

    def _listed(self, group: str) -> list[str]:
        return [name for name in self._config.variables if VARIABLES[name].group == group]

    def _specs(self, name: str, paths: Iterable[str]) -> list[RasterSpec]:
        entry = self._config.variables[name]
        return [
            RasterSpec(path=self._folder / text, key=name, variable=entry.variable, band=entry.band, crs=entry.crs)
            for text in paths
        ]

    def _dated(self, name: str) -> Iterator[tuple[date, list[RasterSpec]]]:
        """The days of a variable, each with its files; a day may come more than once."""
        entry = self._config.variables[name]
        for day, paths in entry.dates.items():
            yield day, self._specs(name, paths)
        specs = self._specs(name, entry.files)
        if specs and entry.date:
            yield entry.date, specs
            return
        for spec in specs:
            days = describe(spec).days
            if days is None and VARIABLES[name].group != "static":
                raise InputError(
                    f"{name}: {spec.path} has no time axis; give its day as 'date', or list the files under 'dates', "
                    "in the sources YAML"
                )
            for day in sorted(set(days or (date.min,))):
                yield day, [spec]

    def _files(self, name: str, day: date) -> list[tuple[RasterSpec, date]]:
        """The files to read for a day; without days, those of the nearest release."""
        dated = list(self._dated(name))
        if VARIABLES[name].group == "static":
            day = min((release for release, _ in dated), key=lambda release: abs((release - day).days))
        return [(spec, day) for there, specs in dated if there == day for spec in specs]

    def _fine(self, name: str, geobox: GeoBox, day: date) -> NDArray[Any]:
        """One fine variable on a window of the target grid.

        GDAL approximates coordinates over whatever window it warps: pinned blocks make the values independent of it.
        They also bound the memory that fine files take.
        """
        variable = VARIABLES[name]
        found: NDArray[Any] = _empty(variable, geobox)
        files = [(describe(spec), release) for spec, release in self._files(name, day)]
        for block, there, here in pinned_blocks(geobox, _BLOCK):
            for raster, release in files:
                values = self._resample(raster, block, release)
                if values is not None:
                    gaps = _missing(found[there])
                    found[there][gaps] = values[here][gaps]
        return found

    def _resample(self, raster: Raster, geobox: GeoBox, day: date) -> NDArray[Any] | None:
        """Physical values on a grid; None where the file does not meet it."""
        from rasterio.warp import Resampling, reproject

        variable = VARIABLES[raster.spec.key]
        try:
            window = cover(geobox, raster.lattice, pad=2)
        except InputError:
            return None
        values = self._physical(raster, window, day)
        mean, coarse = (
            (Resampling.average, Resampling.bilinear)
            if variable.aggregation == "mean"
            else (Resampling.mode, Resampling.nearest)
        )
        nodata = 0 if variable.dtype == "uint8" else np.nan
        found: NDArray[Any] = _empty(variable, geobox)
        assert geobox.crs is not None
        assert raster.lattice.crs is not None
        reproject(
            values,
            found,
            src_transform=raster.lattice[window].affine,
            src_crs=raster.lattice.crs.to_wkt(),
            dst_transform=geobox.affine,
            dst_crs=geobox.crs.to_wkt(),
            src_nodata=nodata,
            dst_nodata=nodata,
            resampling=coarse if _metres(raster.lattice) > _metres(geobox) else mean,
        )
        return found

    def _coarse(self, name: str, geobox: GeoBox, day: date) -> NDArray[Any]:
        variable = VARIABLES[name]
        found: NDArray[Any] = _empty(variable, geobox)
        for spec, there in self._files(name, day):
            raster = describe(spec)
            values = self._physical(raster, window_of(geobox, raster.lattice), there)
            gaps = _missing(found)
            found[gaps] = values[gaps]
        return found

    def _physical(self, raster: Raster, window: Window, day: date) -> NDArray[Any]:
        """A day's values in the units of `variables`, missing where outside the valid range."""
        entry, variable = self._config.variables[raster.spec.key], VARIABLES[raster.spec.key]
        if raster.days is not None and day not in raster.days:
            if len(set(raster.days)) != 1:
                raise InputError(
                    f"{variable.name}: {raster.spec.path} holds {raster.days[0]} to {raster.days[-1]}, not {day}; "
                    "correct 'date' or 'dates' in the sources YAML"
                )
            day = raster.days[0]  # the YAML's day counts, not that of the file
        stored, missing = read_window(raster, *window, day)
        for value in entry.nodata:
            missing |= stored == value
        if variable.dtype == "uint8":
            return _codes(stored[0], missing[0], entry, variable)
        values = _scaled(stored, raster, entry, variable)
        with np.errstate(invalid="ignore"):
            missing |= ~((values >= variable.valid_min) & (values <= variable.valid_max))
        values[missing] = np.nan
        return _daily_mean(values)


def _empty(variable: Variable, geobox: GeoBox) -> NDArray[Any]:
    if variable.dtype == "uint8":
        return np.zeros(geobox.shape, np.uint8)
    return np.full(geobox.shape, np.nan, np.float32)


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = values == 0 if values.dtype == np.uint8 else np.isnan(values)
    return missing


def _scaled(stored: NDArray[Any], raster: Raster, entry: VariableFiles, variable: Variable) -> NDArray[np.float32]:
    scale = raster.scale if entry.scale is None else entry.scale
    offset = raster.offset if entry.offset is None else entry.offset
    factor, shift = UNITS.get((entry.units or variable.units, variable.units), (1.0, 0.0))
    # 16-bit numbers and their scaled values fit float32; others are scaled in float64.
    wide: type[np.floating[Any]] = np.float32 if stored.dtype.itemsize <= 2 else np.float64
    values: NDArray[np.floating[Any]] = stored.astype(wide) * wide(scale * factor) + wide(offset * factor + shift)
    return values.astype(np.float32, copy=False)


def _codes(
    stored: NDArray[Any], missing: NDArray[np.bool_], entry: VariableFiles, variable: Variable
) -> NDArray[np.uint8]:
    """NLCD codes, 0 where missing or unknown."""
    known = entry.codes or {code: code for code in range(int(variable.valid_min), int(variable.valid_max) + 1)}
    codes = np.zeros(stored.shape, np.uint8)
    for given, code in known.items():
        codes[(stored == given) & ~missing] = code
    return codes


def _daily_mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over the fields of a day, where at least half are valid."""
    count = np.isfinite(values).sum(axis=0)
    total = np.nansum(values, axis=0, dtype=np.float64)
    enough = (count > 0) & (2 * count >= len(values))
    return np.where(enough, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _terrain(elevation: NDArray[np.float32], geobox: GeoBox) -> dict[str, NDArray[np.float32]]:
    height, width = abs(geobox.affine.e), geobox.affine.a
    assert geobox.crs is not None
    if geobox.crs.geographic:
        latitude, _ = pixel_centres(geobox)
        across = width * _METRES_PER_DEGREE * np.cos(np.radians(latitude))[:, None]
        slope, aspect = slope_aspect(elevation, height * _METRES_PER_DEGREE, across)
    else:
        unit = geobox.crs.proj.axis_info[0].unit_conversion_factor
        slope, aspect = slope_aspect(elevation, height * unit, width * unit)
    return {"slope": slope, "aspect": aspect}


def _metres(geobox: GeoBox) -> float:
    """Cell height in metres, to compare grids by."""
    assert geobox.crs is not None
    unit = _METRES_PER_DEGREE if geobox.crs.geographic else geobox.crs.proj.axis_info[0].unit_conversion_factor
    return float(abs(geobox.affine.e) * unit)


def _meets(geobox: GeoBox, spec: RasterSpec) -> bool:
    lattice = describe(spec).lattice
    try:
        cover(geobox, lattice)
    except InputError:
        return False
    return True


def _same(one: GeoBox, other: GeoBox) -> bool:
    tolerance = 0.01 * one.affine.a
    return (
        one.shape == other.shape
        and one.crs == other.crs
        and one.affine.almost_equals(other.affine, precision=tolerance)
    )
