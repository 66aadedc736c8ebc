"""Attributes of variables: numbers that files state as numbers, arrays, text or bytes, or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import brief
from mmnet_maps.sources.files.description import RasterError, RasterSpec, notice

NODATA = ("_FillValue", "missing_value")
"""Attributes that hold stored numbers that mean missing."""

_EMPTY: NDArray[Any] = np.array([], np.float64)


def numbers(value: Any) -> NDArray[Any] | None:
    """Return the numbers that an attribute states, in one dimension; empty where it is empty, None where it is text.

    Examples
    --------
    >>> numbers(np.array([[1, 2]], np.int16)), numbers(b"7500, 65535"), numbers(" ")
    (array([1, 2], dtype=int16), array([ 7500., 65535.]), array([], dtype=float64))
    >>> numbers("NA") is None
    True
    """
    if isinstance(value, list | tuple | np.ndarray | np.generic):
        array = np.ravel(np.asarray(value))
        if array.dtype.kind in "iufb":
            return array
        parts = array.tolist()
    else:
        parts = [value]
    found: list[float] = []
    for part in parts:
        if isinstance(part, int | float):
            found.append(part)
            continue
        text = part.decode("latin-1") if isinstance(part, bytes) else part if isinstance(part, str) else ""
        for word in re.split(r"[\s,;\[\](){}\x00]+", text):
            try:
                found += [float(word)] if word else []
            except ValueError:
                return None
    return np.array(found) if found else _EMPTY


def text_of(attributes: Mapping[str, Any], name: str) -> str:
    """Return the text of an attribute; empty where it is missing or no text."""
    value = attributes.get(name, "")
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return value.strip(" \t\n\0") if isinstance(value, str) else ""


def packing(spec: RasterSpec, attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return ``scale``, ``offset``, ``nodata`` and ``valid`` of a `Raster`; flags have none.

    Parameters
    ----------
    dtype
        The type of the stored numbers, as they are read.

    Raises
    ------
    RasterError
        When the scale or the offset is no number.
    """
    if spec.flags:
        return {"scale": 1.0, "offset": 0.0, "nodata": ()}
    scale, offset = _scaling(spec, attributes)
    valid = None if spec.valid else _valid(spec, attributes, dtype, scale, offset)
    return {"scale": scale, "offset": offset, "nodata": _nodata(spec, attributes, dtype), "valid": valid}


def _scaling(spec: RasterSpec, attributes: Mapping[str, Any]) -> tuple[float, float]:
    """Return ``scale_factor`` and ``add_offset``.

    Where one of them is text, several numbers or not finite, or the scale is 0, it is that of the YAML, else a
    RasterError.
    """
    found = []
    for name, given, option, default in (
        ("scale_factor", spec.scale, "scale", 1.0),
        ("add_offset", spec.offset, "offset", 0.0),
    ):
        stated = numbers(attributes.get(name, ""))
        unique = [] if stated is None else np.unique(stated).astype(float).tolist()
        bad = not np.isfinite(unique).all() or (name == "scale_factor" and 0 in unique)
        sound = stated is not None and len(unique) < 2 and not bad
        if not sound and given is None:
            raise RasterError(
                f"{name} is {_shown(attributes[name])}; expected one number; give {option} in the sources YAML"
            )
        found.append(given if not sound and given is not None else unique[0] if unique else default)
    return found[0], found[1]


def _nodata(spec: RasterSpec, attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> tuple[float, ...]:
    """Return the stored numbers that mean missing; text such as ``NA`` marks none, with a notice."""
    found: dict[float, None] = {}
    for name in NODATA:
        stated = numbers(attributes.get(name, ""))
        if stated is None:
            notice(
                spec,
                f"{name} is {_shown(attributes[name])}, which marks no number as missing; "
                "if one does, give it as nodata in the sources YAML",
            )
            continue
        found.update(dict.fromkeys(_as_stored(unsigned(stated, attributes, dtype), dtype).astype(float).tolist()))
    return tuple(found)


def _valid(
    spec: RasterSpec, attributes: Mapping[str, Any], dtype: np.dtype[Any], scale: float, offset: float
) -> tuple[float, float] | None:
    """Return the lowest and highest valid stored number: ``valid_range``, or ``valid_min`` and ``valid_max``.

    They are stored numbers, unless they are floating-point and the stored numbers are packed integers: then they are
    physical ones (CF conventions 1.11, section 2.5.1; NetCDF Users' Guide, "Attribute conventions").
    None where the file states none, or none that makes sense, the latter with a notice.
    """
    limits = [-np.inf, np.inf]
    for name, ends in (("valid_range", (0, 1)), ("valid_min", (0,)), ("valid_max", (1,))):
        stated = numbers(attributes.get(name, ""))
        if stated is not None and stated.size == 0:
            continue
        if stated is None or stated.size != len(ends):
            notice(spec, f"{name} is {_shown(attributes[name])}, which is no range; it is ignored")
            continue
        values = _as_stored(unsigned(stated, attributes, dtype), dtype).astype(float)
        packed = "scale_factor" in attributes or "add_offset" in attributes
        if packed and dtype.kind in "iu" and stated.dtype.kind == "f" and not _is_text(attributes[name]):
            # A limit counts as valid though its quotient is inexact.
            values = np.round((values - offset) / scale, 6)
            values = values[::-1] if scale < 0 and len(ends) == 2 else values
        for end, value in zip(ends, values, strict=True):
            limits[end] = float(value)
    low, high = limits
    if not low < high:
        notice(spec, f"its valid range is {low:g} to {high:g}, which holds no number; it is ignored")
        return None
    return None if (low, high) == (-np.inf, np.inf) else (low, high)


def unsigned(values: NDArray[Any], attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return unsigned numbers that netCDF 3 stores as signed (``_Unsigned``) as unsigned; others unchanged."""
    if str(attributes.get("_Unsigned", "")).lower() == "true" and values.dtype.kind == "i":
        return values.astype(f"i{dtype.itemsize}").view(f"u{dtype.itemsize}")
    return values


def _as_stored(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return negative numbers of the type's size as unsigned where the stored numbers are: -1 is 255 of a byte."""
    if dtype.kind == "u" and values.dtype.kind == "i" and values.dtype.itemsize <= dtype.itemsize:
        return values.astype(f"i{dtype.itemsize}").view(dtype)
    return values


def _is_text(value: Any) -> bool:
    return not (
        isinstance(value, int | float) or (isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "iuf")
    )


def _shown(value: Any) -> str:
    text = str(value.decode("latin-1") if isinstance(value, bytes) else value).strip("\0 ")
    return repr(brief(text, 40))
