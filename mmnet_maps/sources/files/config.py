"""The YAML file that describes a user's own rasters, and writing any settings as commented YAML."""

from __future__ import annotations

import datetime as dt
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mmnet_maps.errors import RequestError
from mmnet_maps.settings import read_model
from mmnet_maps.variables import VARIABLES

UNITS: dict[tuple[str, str], tuple[float, float]] = {
    ("degC", "K"): (1.0, 273.15),
    ("Pa", "kPa"): (0.001, 0.0),
    ("hPa", "kPa"): (0.1, 0.0),
    ("mm", "mm day-1"): (1.0, 0.0),
    ("m day-1", "mm day-1"): (1000.0, 0.0),
    ("kg m-2 s-1", "mm day-1"): (86400.0, 0.0),
    ("MJ m-2 day-1", "W m-2"): (1e6 / 86400, 0.0),
    ("km h-1", "m s-1"): (1 / 3.6, 0.0),
    ("g kg-1", "kg kg-1"): (0.001, 0.0),
    ("g kg-1", "percent"): (0.1, 0.0),
    ("1", "percent"): (100.0, 0.0),
    ("percent", "1"): (0.01, 0.0),
    ("percent", "m3 m-3"): (0.01, 0.0),
    ("kg m-3", "g cm-3"): (0.001, 0.0),
    ("ft", "m"): (0.3048, 0.0),
    ("cm", "m"): (0.01, 0.0),
    ("radian", "degree"): (57.29577951308232, 0.0),
}
"""Factor and offset from the units of a file to the units of `variables`."""

LINEAR = "linear"
"""Units of backscatter that is a power and not yet in dB: 10·log₁₀ is taken of it."""

DATE_CODES = {"Y": r"\d{4}", "m": r"\d\d", "d": r"\d\d", "j": r"\d{3}", "H": r"\d\d", "M": r"\d\d", "S": r"\d\d"}
"""What a date part of a pattern may hold: the codes of strftime, each with what it matches in a file name."""


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | int | float) else value


def _as_tuples(value: Any) -> Any:
    return {key: _as_tuple(item) for key, item in value.items()} if isinstance(value, dict) else value


def _check_pattern(text: str) -> str:
    """ValueError where a pattern is not understood."""
    parts = re.findall(r"\{([^{}]*)\}", text)
    for part in parts:
        if part != "tile" and not re.fullmatch(rf"date:(?:[^%/*?]*%[{''.join(DATE_CODES)}])+[^%/*?]*", part):
            codes = ", ".join(f"%{code}" for code in DATE_CODES)
            raise ValueError(f"{{{part}}} is not understood; expected {{tile}} or {{date:...}} of {codes}")
    stated = set(re.findall("%(.)", "".join(parts)))
    if stated and not ("Y" in stated and ("d" not in stated or "m" in stated) and not {"j", "m"} <= stated):
        raise ValueError("the date parts must state a year; beside it %j, or %m, or %m and %d")
    if re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", text)):
        raise ValueError("a brace is not closed; expected {tile} or {date:%Y%m%d}")
    if "**" in text or not text.strip("/") or text.endswith("/"):
        raise ValueError("expected a file name, with * for each folder before it")
    return text


Paths = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class Mask(BaseModel):
    """A raster beside each file that says which pixels count."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    replace: Annotated[
        dict[str, str],
        Field(description="Text in the file's path, and what stands in its place in the mask's; left out: same file."),
    ] = {}
    variable: Annotated[str | None, Field(description="Name of the mask in a NetCDF, HDF or Zarr.")] = None
    band: Annotated[int, Field(ge=1, description="Band of the mask in a GeoTIFF, counted from 1.")] = 1
    bits: Annotated[
        tuple[Annotated[int, Field(ge=0, le=31)], ...],
        BeforeValidator(_as_tuple),
        Field(description="Bits, counted from 0, that must all be zero."),
    ] = ()
    values: Annotated[
        tuple[float, ...], BeforeValidator(_as_tuple), Field(description="The only numbers of the mask that count.")
    ] = ()

    @model_validator(mode="after")
    def _check(self) -> Mask:
        if not self.bits and not self.values:
            raise ValueError("give the bits that must be zero, or the values that count")
        return self


class Smooth(BaseModel):
    """A speckle filter: a Gaussian kernel over the file's own pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    radius: Annotated[int, Field(ge=1, le=50, description="Pixels from the middle of the kernel to its edge.")]
    sigma: Annotated[float, Field(gt=0, description="Standard deviation of the kernel, in pixels.")] = 1.0


class VariableFiles(BaseModel):
    """The files of one variable."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    files: Annotated[
        Paths, Field(description="One file or several side by side (GeoTIFF, NetCDF, Zarr, …), relative to folder.")
    ] = ()
    dates: Annotated[
        dict[dt.date, Paths],
        BeforeValidator(_as_tuples),
        Field(description="In place of files: the files of each day, or of each release of a variable without days."),
    ] = {}
    pattern: Annotated[
        Annotated[str, AfterValidator(_check_pattern)] | None,
        Field(
            description="In place of files: a file name with *, ?, its date as {date:%Y%m%d} and, where files of one "
            "grid share a part of their names, that part as {tile}."
        ),
    ] = None
    date: Annotated[
        dt.date | None, Field(description="The day of files; not needed where a NetCDF or Zarr has a time axis.")
    ] = None
    variable: Annotated[
        str | None, Field(description="Name of the variable in a NetCDF or Zarr; not needed where it holds only one.")
    ] = None
    band: Annotated[int, Field(ge=1, description="Band of a GeoTIFF, counted from 1.")] = 1
    crs: Annotated[str | None, Field(description="CRS of the files, where they do not state it.")] = None
    scale: Annotated[
        float | None, Field(description="Multiplies the stored numbers, in place of the file's own scale.")
    ] = None
    offset: Annotated[float | None, Field(description="Is added after scale, in place of the file's own offset.")] = (
        None
    )
    nodata: Annotated[
        tuple[float, ...],
        BeforeValidator(_as_tuple),
        Field(description="Stored numbers that mean missing, beside the file's own."),
    ] = ()
    codes: Annotated[
        dict[int, int], Field(description="Stored land cover codes and the NLCD code of each; others are missing.")
    ] = {}
    units: Annotated[
        str | None, Field(description="Units after scale and offset, where they differ from the variable's own.")
    ] = None
    mask: Annotated[Mask | None, Field(description="A raster of the same grid that says which pixels count.")] = None
    valid: Annotated[
        tuple[float, float] | None,
        Field(description="Lowest and highest value that count, in the variable's own units."),
    ] = None
    smooth: Annotated[
        Smooth | None, Field(description="Speckle filter, after mask and valid; missing pixels stay missing.")
    ] = None
    fields: Annotated[
        int | None,
        Field(ge=1, description="Valid fields that the mean of a day needs; left out: half of those that are there."),
    ] = None
    product: Annotated[str, Field(min_length=1, description="Name of the product, repeated in every map.")]
    version: Annotated[str, Field(description="The product's version, as its publisher writes it.")] = "not stated"
    licence: Annotated[str, Field(description="The product's licence, repeated in every map.")] = "not stated"

    @model_validator(mode="after")
    def _check(self) -> VariableFiles:
        if sum(map(bool, (self.files, self.dates, self.pattern))) != 1:
            raise ValueError("give either files or dates or a pattern")
        if self.date and not self.files:
            raise ValueError("date goes with files; dates and a pattern state the days already")
        if self.valid and not self.valid[0] < self.valid[1]:
            raise ValueError("valid must be the lowest and the highest value")
        if self.scale == 0:
            raise ValueError("scale must not be 0")
        return self


class SourcesConfig(BaseModel):
    """Rasters of a user, variable by variable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="Short name: letters, digits, - and _.")
    ]
    folder: Annotated[
        str,
        Field(
            min_length=1, description="Where the files lie, seen from this YAML; ${NAME} stands for the environment."
        ),
    ] = "."
    rest: Annotated[
        Literal["demo"] | None,
        Field(description="demo: variables that are not listed come from the synthetic world. Leave out for none."),
    ] = None
    variables: Annotated[
        dict[str, VariableFiles], Field(min_length=1, description="The variables, by the names of mmnet_maps.")
    ]

    @model_validator(mode="after")
    def _check(self) -> SourcesConfig:
        for name, entry in self.variables.items():
            if name not in VARIABLES:
                raise ValueError(f"unknown variable {name}; expected some of {', '.join(VARIABLES)}")
            own = VARIABLES[name].units
            known = [given for given, wanted in UNITS if wanted == own] + [LINEAR] * (own == "dB")
            if entry.units not in (None, own, *known):
                raise ValueError(f"units {entry.units!r} of {name} are unknown; expected {' or '.join([own, *known])}")
            if entry.codes and name != "landcover":
                raise ValueError(f"codes go with landcover, not with {name}")
            if name == "landcover" and (entry.valid or entry.smooth):
                raise ValueError("valid and smooth go with numbers, not with landcover")
        return self


def load_sources(path: str | Path) -> tuple[SourcesConfig, Path | str]:
    """Read the description of a user's rasters.

    Parameters
    ----------
    path
        A YAML file; ``examples/zion.yaml`` is one.

    Returns
    -------
    config, folder
        The description, and the folder its files are relative to; a str where that is a URL.

    Raises
    ------
    RequestError
        When the file cannot be read, a key is unknown or missing, a value is out of bounds, or an environment
        variable that it names is not set.
    """
    path = Path(path)
    config = read_model(path, SourcesConfig, "sources", see="examples/zion.yaml")
    folder = _expand(config.folder, path)
    return config, folder if "://" in folder else path.parent / Path(folder).expanduser()


def _expand(text: str, path: Path) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1]
        if not os.environ.get(name):
            raise RequestError(
                f"{path}: folder {text} needs the environment variable {name}, which is not set; "
                f"set it to the folder that holds the rasters: export {name}=/path/to/rasters"
            )
        return os.environ[name]

    return re.sub(r"\$\{(\w+)\}", value, text)
