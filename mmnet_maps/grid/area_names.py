"""Names of areas as they can be part of file names: readable in any script, and distinct."""

from __future__ import annotations

import unicodedata
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

_LONGEST = 160  # bytes of a name; file systems allow 255 for the whole name of a file
_DIGITS = 4  # decimals of a degree, 11 m
_RESERVED = {"closure": "closure_area"}
"""Files of these names are no maps: ``closure_{YYYYMMDD}.json`` holds the SMAP consistency of a day."""


def file_name(text: str) -> str:
    r"""Return a text as part of file names: letters, marks and digits of any script, ``_`` and ``-``.

    Anything else becomes ``_``. Letters are composed (NFC), so that one name is the same on every system. What is too
    long for a file name is cut and ends in a hash of the whole.

    Returns
    -------
    str
        Empty where the text holds no letter or digit.

    Examples
    --------
    >>> file_name("grant county (2)"), file_name("Zu\u0308rich-Ñ_北京"), file_name("🌽")
    ('grant_county_2', 'Zürich-Ñ_北京', '')
    """
    signs = [sign if _is_kept(sign) else " " for sign in unicodedata.normalize("NFC", text)]
    name = "_".join("".join(signs).split()).strip("_")
    if len(whole := name.encode()) > _LONGEST:
        name = f"{whole[: _LONGEST - 7].decode(errors='ignore')}_{sha256(whole).hexdigest()[:6]}"
    return _RESERVED.get(name, name)


def name_of_geometry(geometry: BaseGeometry) -> str:
    """Name an area after its bounds in degrees: west, south, east, north.

    A hash of the geometry follows where the name alone does not say which it is: where bounds are rounded, to 0.0001°,
    and where the area is no rectangle.

    Examples
    --------
    >>> from shapely.geometry import Polygon, box
    >>> name_of_geometry(box(-119.6, 47.1, -119.57, 47.12))
    'aoi_119.6W_47.1N_119.57W_47.12N'
    >>> name_of_geometry(Polygon([(-119.6, 47.1), (-119.57, 47.1), (-119.6, 47.12)]))
    'aoi_119.6W_47.1N_119.57W_47.12N_036aee'
    """
    from shapely import normalize
    from shapely.geometry import box

    bounds = geometry.bounds
    shown = [round(value, _DIGITS) for value in bounds]
    signs = ("EW", "NS", "EW", "NS")
    parts = [f"{abs(value):.12g}{sign[value < 0]}" for value, sign in zip(shown, signs, strict=True)]
    if tuple(shown) != bounds or not geometry.equals(box(*bounds)):
        parts.append(sha256(normalize(geometry).wkb).hexdigest()[:6])
    return "_".join(["aoi", *parts])


def _is_kept(sign: str) -> bool:
    return sign in "_-" or unicodedata.category(sign)[0] in "LMN"
