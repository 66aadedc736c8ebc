"""Read a window of a file as physical values: masks, units, valid ranges, speckle filter."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import Window
from mmnet_maps.sources.files.alignment import same
from mmnet_maps.sources.files.config import Mask, RasterEntry, Smooth
from mmnet_maps.sources.files.daily import of_field
from mmnet_maps.sources.files.description import Raster, RasterSpec
from mmnet_maps.sources.files.locations import replaced, shown
from mmnet_maps.sources.files.rasters import describe, read_window
from mmnet_maps.sources.files.stated import Notices, Scaling, scaling
from mmnet_maps.variables import NLCD_CODES, Variable


def read_fields(
    raster: Raster,
    window: Window,
    day: date,
    entry: RasterEntry,
    variable: Variable,
    notices: Notices,
    *,
    several: bool = False,
) -> NDArray[Any]:
    """Read the fields of a day.

    Parameters
    ----------
    raster, window
        The file, and the rows and columns of its lattice.
    day
        The day; a file with a time axis of one other day is read too, because the YAML's day has precedence.
    entry, variable
        The YAML's entry, and the variable.
    notices
        Where what users should know about the file is reported.
    several
        The day has other fields too: the range of the variable is that of their sum, mean or extreme.

    Returns
    -------
    ndarray (field, y, x)
        In the units of `variables`, missing where masked or out of range.

    Raises
    ------
    InputError
        When the file or its mask is absent or broken, the file does not hold the day, its units do not convert, or it
        marks a legal value as missing.
    """
    settled = scaling(raster, entry, variable, notices)
    if raster.days is not None and day not in raster.steps_of:
        if len(raster.steps_of) != 1:
            held = f"{raster.days[0]} to {raster.days[-1]}" if raster.days else "no day"
            raise InputError(
                f"{variable.name}: {shown(raster.spec.path)} holds {held}, not {day}; "
                "expected a file of that day; correct 'date', 'dates' or 'pattern' in the sources YAML"
            )
        day = raster.days[0]
    stored, missing = read_window(raster, *window, day, entry.nodata)
    kept = np.ones(1, bool)
    if entry.mask:
        kept = _kept(raster, entry.mask, window, day, len(stored))
        missing |= ~kept
    if entry.nodata is None:
        _check_legal(stored, kept, raster, settled, entry, variable, notices)
    if variable.dtype == "uint8":
        stored, missing = stored[:1], missing[:1]
    part = of_field(variable, settled.daily) if several else variable
    if part is not variable:
        entry = entry.model_copy(update={"valid": None})
    values = physical(stored, missing, settled, entry, part)
    _check_range(values, stored, missing, settled, entry, part, notices, shown(raster.spec.path))
    return values


def _check_range(
    values: NDArray[Any],
    stored: NDArray[Any],
    missing: NDArray[np.bool_],
    settled: Scaling,
    entry: RasterEntry,
    variable: Variable,
    notices: Notices,
    where: str,
) -> None:
    """Count the numbers that are impossible values; InputError where all are (`OutOfRange.check`)."""
    if variable.dtype == "uint8" and entry.codes:
        return  # all other codes are missing by the YAML
    present = int(missing.size - np.count_nonzero(missing))
    if variable.dtype == "uint8":
        dropped = stored[~missing & ~np.isin(stored, NLCD_CODES)]
    else:
        dropped = _scaled(stored[~missing & np.isnan(values)], settled)
        dropped = dropped[(dropped < variable.valid_min) | (dropped > variable.valid_max)]
    notices.ranges.add(variable, dropped, present, where)


def _check_legal(
    stored: NDArray[Any],
    kept: NDArray[np.bool_],
    raster: Raster,
    settled: Scaling,
    entry: RasterEntry,
    variable: Variable,
    notices: Notices,
) -> None:
    """Refuse a stored number that the file marks as missing although it is a legal value, where a mask keeps it.

    The number 0 of a scene (optical, SAR) is exempt: it marks the pixels outside of the swath. So are the last number
    of the type of packed integers, and the fill value 0 that Zarr sets where nobody states one, which is read as a
    value, with a notice.
    """

    def legal(value: float) -> bool:
        one = physical(np.array([value]), np.zeros(1, bool), settled, entry, variable)
        return bool(one[0]) if variable.dtype == "uint8" else bool(np.isfinite(one[0]))

    where, name = shown(raster.spec.path), variable.name
    for value in raster.nodata:
        scene = value == 0 and variable.group in ("optical", "sar")
        if (
            not scene
            and not _ends_type(value, stored.dtype, raster, entry)
            and legal(value)
            and ((stored == value) & kept).any()
        ):
            raise InputError(
                f"{name}: {where} marks {value:g} as missing, which is a legal value ({variable.valid_min:g} to "
                f"{variable.valid_max:g} {variable.units}); add 'nodata: []' to {name} in the sources YAML to read it "
                f"as a value, or 'nodata: [{value:g}]' if it means missing"
            )
    if raster.fill is not None and legal(raster.fill) and ((stored == raster.fill) & kept).any():
        notices.once(
            name,
            "fill",
            f"{raster.fill:g} is read as a value from {where}, where it is only the fill value that Zarr sets by "
            f"default; add 'nodata: [{raster.fill:g}]' to {name} in the sources YAML if it means missing",
        )


def _ends_type(value: float, dtype: np.dtype[Any], raster: Raster, entry: RasterEntry) -> bool:
    """Return True for the lowest or highest number of packed integers, which packing leaves to what is missing."""
    packed = {raster.scale, entry.scale} - {1, None} or {raster.offset, entry.offset} - {0, None}
    if dtype.kind not in "iu" or not packed:
        return False
    ends = np.iinfo(dtype)
    return value in ({ends.max} if dtype.kind == "u" else {ends.min, -ends.max, ends.max})


def _kept(raster: Raster, mask: Mask, window: Window, day: date, fields: int) -> NDArray[np.bool_]:
    """Return the pixels of a window that the mask beside a file of some fields keeps, (field, y, x).

    Raises
    ------
    InputError
        When the mask is absent, broken, or on another grid, or does not hold the day and its fields.
    """
    spec = raster.spec
    path = spec.mask or replaced(spec.path, mask.replace)
    if path is None:
        raise InputError(
            f"{spec.key}: no mask for {shown(spec.path)}; expected one of {', '.join(mask.replace)} in the path; "
            "correct mask.replace in the sources YAML"
        )
    key = "mask" if isinstance(path, str) else spec.key  # bands share the description of a remote mask
    beside = describe(RasterSpec(path=path, key=key, variable=mask.variable, band=mask.band, crs=spec.crs, flags=True))
    if not same(beside.lattice, raster.lattice):
        raise InputError(
            f"{spec.key}: the mask {shown(path)} lies on another grid than {shown(spec.path)}; expected the same grid; "
            "correct mask in the sources YAML"
        )
    if beside.days is not None and day not in beside.days:
        if len(set(beside.days)) != 1:
            raise InputError(
                f"{spec.key}: the mask {shown(path)} does not hold {day}; expected the days of {shown(spec.path)}; "
                "correct mask in the sources YAML"
            )
        day = beside.days[0]
    # A number that the mask's file marks as nodata counts like any other: 0 is the best quality in MODIS.
    stored = read_window(beside, *window, day, ())[0]
    if len(stored) not in (1, fields):
        raise InputError(
            f"{spec.key}: the mask {shown(path)} holds {len(stored)} fields of {day}, {shown(spec.path)} {fields}; "
            "expected the same times or one; correct mask in the sources YAML"
        )
    try:
        return clear(stored, mask)
    except ValueError as error:
        raise InputError(f"{spec.key}: the mask {shown(path)}: {error}") from error


def clear(stored: NDArray[Any], mask: Mask) -> NDArray[np.bool_]:
    """Return which numbers of a mask, of any shape, keep their pixel.

    Raises
    ------
    ValueError
        When bits are configured for a mask of floating-point numbers.

    Examples
    --------
    >>> clear(np.array([0, 2, 4, 8, 255], np.uint8), Mask(bits=(1, 3)))
    array([ True, False,  True, False, False])
    >>> clear(np.array([4, 5, 6], np.uint8), Mask(values=(4, 5)))
    array([ True,  True, False])
    """
    kept = np.ones(stored.shape, bool)
    if mask.bits:
        if not np.issubdtype(stored.dtype, np.integer):
            raise ValueError(
                f"its numbers are {stored.dtype}, which have no bits; expected integers; give values in place of bits"
            )
        bits = sum(1 << bit for bit in mask.bits)
        # Signed numbers keep their bits, and a mask's may be wider than the type.
        kept &= (stored.astype(np.int64) & bits) == 0
    if mask.values:
        kept &= np.isin(stored, mask.values)
    return kept


def physical(
    stored: NDArray[Any],
    missing: NDArray[np.bool_],
    settled: Scaling,
    entry: RasterEntry,
    variable: Variable,
) -> NDArray[Any]:
    """Convert stored numbers to the units of `variables`.

    Parameters
    ----------
    stored, missing
        Numbers as stored and which of them are missing, of one shape.
    settled
        Scale, offset and units of the stored numbers.
    entry, variable
        The YAML's entry, and the variable.

    Returns
    -------
    ndarray
        float32, NaN where missing, outside the variable's range or that of the YAML; land cover as uint8 codes, 0
        where missing or unknown. Amounts up to a stored step below 0, which the packing of ERA5 leaves, are 0.
    """
    if variable.dtype == "uint8":
        return _codes(stored, missing, entry, variable)
    values = _scaled(stored, settled)
    if variable.amount:
        values[(values < 0) & (values >= -variable.scale)] = 0
    low, high = _limits(entry, variable)
    with np.errstate(invalid="ignore"):
        values[missing | ~((values >= low) & (values <= high))] = np.nan
    return values


def in_range(
    values: NDArray[np.float32], entry: RasterEntry, variable: Variable, notices: Notices, where: str
) -> NDArray[np.float32]:
    """Return the values of a day of several fields, NaN outside of the ranges; errors and counts as for the fields."""
    notices.ranges.check(variable, values, where)
    low, high = _limits(entry, variable)
    with np.errstate(invalid="ignore"):
        return np.where((values >= low) & (values <= high), values, np.float32(np.nan))


def _limits(entry: RasterEntry, variable: Variable) -> tuple[float, float]:
    low, high = entry.valid or (variable.valid_min, variable.valid_max)
    return max(low, variable.valid_min), min(high, variable.valid_max)


def _scaled(stored: NDArray[Any], settled: Scaling) -> NDArray[np.float32]:
    # 16-bit numbers and their scaled values fit float32; others are scaled in float64.
    wide: type[np.floating[Any]] = np.float32 if stored.dtype.itemsize <= 2 else np.float64
    values: NDArray[np.floating[Any]] = stored.astype(wide)
    values *= wide(settled.scale)
    values += wide(settled.offset)
    if settled.decibels:
        with np.errstate(divide="ignore", invalid="ignore"):
            np.log10(values, out=values)
        values *= 10
    return values.astype(np.float32, copy=False)


def _codes(
    stored: NDArray[Any], missing: NDArray[np.bool_], entry: RasterEntry, variable: Variable
) -> NDArray[np.uint8]:
    """Return NLCD codes, 0 where missing or unknown."""
    known = entry.codes or {code: code for code in range(int(variable.valid_min), int(variable.valid_max) + 1)}
    codes = np.zeros(stored.shape, np.uint8)
    for given, code in known.items():
        codes[(stored == given) & ~missing] = code
    return codes


def smoothed(values: NDArray[np.float32], smooth: Smooth) -> NDArray[np.float32]:
    """Average the valid pixels around each one, (y, x), with the weights of a Gaussian kernel; NaN stays NaN.

    Examples
    --------
    >>> one = np.full((1, 5), -10.0, np.float32)
    >>> one[0, 2] = np.nan
    >>> smoothed(one, Smooth(radius=3)).round(3)
    array([[-10., -10.,  nan, -10., -10.]], dtype=float32)
    """
    from scipy.ndimage import correlate1d

    steps = np.arange(-smooth.radius, smooth.radius + 1)
    kernel = np.exp(-0.5 * (steps / smooth.sigma) ** 2)
    gaps = np.isnan(values)
    total, weight = np.where(gaps, np.float32(0), values), (~gaps).astype(np.float32)
    for axis in (0, 1):
        total = correlate1d(total, kernel, axis=axis, mode="constant")
        weight = correlate1d(weight, kernel, axis=axis, mode="constant")
    with np.errstate(divide="ignore", invalid="ignore"):
        total /= weight
    total[gaps] = np.nan
    return np.asarray(total, np.float32)
