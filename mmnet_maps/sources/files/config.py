"""The YAML file that describes a user's own rasters."""

from __future__ import annotations

import datetime as dt
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mmnet_maps.errors import RequestError
from mmnet_maps.settings import read_model
from mmnet_maps.sources.files.units import conversion
from mmnet_maps.variables import NLCD_CODES, VARIABLES, Variable

_FOLDER_VARIABLES = re.compile(r"MMNET_\w+|\w+_RASTERS|HOME|SCRATCH|WORK|DATA")
"""Environment variables that may stand in a folder."""

DATE_CODES = {"Y": r"\d{4}", "m": r"\d\d", "d": r"\d\d", "j": r"\d{3}", "H": r"\d\d", "M": r"\d\d", "S": r"\d\d"}
"""strftime codes allowed in the date part of a pattern, each with the expression that it matches in a file name."""


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | int | float) else value


def _as_tuples(value: Any) -> Any:
    return {key: _as_tuple(item) for key, item in value.items()} if isinstance(value, dict) else value


def _check_pattern(text: str) -> str:
    """Return a pattern unchanged; ValueError where it is invalid."""
    parts = re.findall(r"\{([^{}]*)\}", text)
    for part in parts:
        if part != "tile" and not re.fullmatch(rf"date:(?:[^%/*?]*%[{''.join(DATE_CODES)}])+[^%/*?]*", part):
            codes = ", ".join(f"%{code}" for code in DATE_CODES)
            raise ValueError(f"unknown part {{{part}}}; expected {{tile}} or {{date:...}} of {codes}")
    stated = set(re.findall("%(.)", "".join(parts)))
    if stated and not ("Y" in stated and ("d" not in stated or "m" in stated) and not {"j", "m"} <= stated):
        raise ValueError("incomplete date; expected a year, alone or with %j, %m, or %m and %d")
    if re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", text)):
        raise ValueError("unmatched brace; expected {tile} or {date:%Y%m%d}")
    if "**" in text or not text.strip("/") or text.endswith("/"):
        raise ValueError("no file name, or **; expected a file name, with * for each folder before it")
    return text


Paths = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class Mask(BaseModel):
    """A raster beside each file that marks its valid pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    replace: Annotated[
        dict[str, str],
        Field(description="Text in the file's path and its replacement in the mask's path; default: the same file."),
    ] = {}
    variable: Annotated[str | None, Field(description="Name of the mask in a NetCDF, HDF or Zarr file.")] = None
    band: Annotated[int, Field(ge=1, description="Band of the mask in a GeoTIFF, counted from 1.")] = 1
    bits: Annotated[
        tuple[Annotated[int, Field(ge=0, le=31)], ...],
        BeforeValidator(_as_tuple),
        Field(description="Bits, counted from 0, that must all be zero."),
    ] = ()
    values: Annotated[
        tuple[float, ...], BeforeValidator(_as_tuple), Field(description="Values of the mask that mark valid pixels.")
    ] = ()

    @model_validator(mode="after")
    def _check(self) -> Mask:
        if not self.bits and not self.values:
            raise ValueError("neither bits nor values; give the bits that must be zero, or the values of valid pixels")
        return self


class Smooth(BaseModel):
    """A speckle filter: a Gaussian kernel over the file's own pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    radius: Annotated[int, Field(ge=1, le=50, description="Pixels from the centre of the kernel to its edge.")]
    sigma: Annotated[float, Field(gt=0, description="Standard deviation of the kernel, in pixels.")] = 1.0


class RasterEntry(BaseModel):
    """How the numbers of a variable's files become values, and what the files are."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    variable: Annotated[
        str | None,
        Field(description="Name of the variable in a NetCDF or Zarr file; not needed where it holds only one."),
    ] = None
    band: Annotated[int, Field(ge=1, description="Band of a GeoTIFF, counted from 1.")] = 1
    crs: Annotated[str | None, Field(description="CRS of the files, instead of the one that they state.")] = None
    scale: Annotated[
        float | None, Field(description="Factor applied to the stored numbers, instead of the file's own scale.")
    ] = None
    offset: Annotated[float | None, Field(description="Added after scaling, instead of the file's own offset.")] = None
    nodata: Annotated[
        tuple[float, ...] | None,
        BeforeValidator(_as_tuple),
        Field(description="Stored numbers that mean missing, instead of the file's own nodata; [] for none."),
    ] = None
    codes: Annotated[
        dict[int, int], Field(description="Stored land cover codes and the NLCD code of each; all others are missing.")
    ] = {}
    units: Annotated[
        str | None,
        Field(
            description="Units after scale and offset, instead of those that the file states; default: the file's, or "
            "the variable's own. For backscatter: dB or linear."
        ),
    ] = None
    mask: Annotated[Mask | None, Field(description="A raster on the same grid that marks valid pixels.")] = None
    valid: Annotated[
        tuple[float, float] | None,
        Field(description="Lowest and highest valid value, in the variable's own units."),
    ] = None
    smooth: Annotated[
        Smooth | None, Field(description="Speckle filter, applied after mask and valid; missing pixels stay missing.")
    ] = None
    fields: Annotated[
        int | None,
        Field(
            ge=1,
            description="Valid fields that a day needs; default: all that their time step gives, half of them for SMAP "
            "and other observations.",
        ),
    ] = None
    product: Annotated[str, Field(min_length=1, description="Name of the product, repeated in every map.")]
    version: Annotated[str, Field(description="The product's version, as its publisher writes it.")] = "not stated"
    licence: Annotated[str, Field(description="The product's licence, repeated in every map.")] = "not stated"

    @property
    def reach(self) -> int:
        """Cells beyond a window that its values depend on: two by interpolation at its edge, and the filter's."""
        return 2 + (self.smooth.radius if self.smooth else 0)

    @model_validator(mode="after")
    def _check_numbers(self) -> RasterEntry:
        if self.valid and not self.valid[0] < self.valid[1]:
            raise ValueError("valid is not increasing; expected the lowest and the highest value")
        if self.scale == 0:
            raise ValueError("scale is 0; expected another number")
        return self


class _Places(BaseModel):
    """Where the files of a variable are, and their days."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    files: Annotated[
        Paths, Field(description="One file or several adjacent ones (GeoTIFF, NetCDF, Zarr, …), relative to folder.")
    ] = ()
    dates: Annotated[
        dict[dt.date, Paths],
        BeforeValidator(_as_tuples),
        Field(description="Instead of files: the files of each day, or of each release of a static variable."),
    ] = {}
    pattern: Annotated[
        Annotated[str, AfterValidator(_check_pattern)] | None,
        Field(
            description="Instead of files: a file name with *, ?, its date as {date:%Y%m%d} and, where files on one "
            "grid share a part of their names, that part as {tile}."
        ),
    ] = None
    date: Annotated[
        dt.date | None, Field(description="The day of files; not needed where a NetCDF or Zarr file has a time axis.")
    ] = None

    @model_validator(mode="after")
    def _check_files(self) -> _Places:
        if sum(map(bool, (self.files, self.dates, self.pattern))) != 1:
            raise ValueError("give one of files, dates and pattern")
        if self.date and not self.files:
            raise ValueError("date needs files; dates and a pattern state the days themselves")
        return self


class VariableFiles(RasterEntry, _Places):
    """The files of one variable."""


def check_entry(entry: RasterEntry, variable: Variable) -> None:
    """Check an entry against its variable; ValueError where a key does not fit."""
    name, low, high = variable.name, variable.valid_min, variable.valid_max
    if entry.units is not None:
        try:
            conversion(entry.units, variable)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    classes = variable.aggregation == "mode"
    if entry.codes and not classes:
        raise ValueError(f"{name} has no codes; expected codes only of classes such as landcover")
    unknown = sorted(set(entry.codes.values()) - {0, *NLCD_CODES})
    if unknown:
        raise ValueError(
            f"{name}: codes names {unknown[0]}, which is no NLCD code; expected some of "
            f"{', '.join(map(str, NLCD_CODES))}; leave out what is missing"
        )
    if classes and (entry.valid or entry.smooth):
        raise ValueError(f"{name} holds classes; expected valid and smooth only of quantities")
    if entry.valid and (entry.valid[1] < low or entry.valid[0] > high):
        raise ValueError(
            f"{name}: valid is {entry.valid[0]:g} to {entry.valid[1]:g}, where no value is possible; expected some of "
            f"{low:g} to {high:g} {variable.units}"
        )


class SourcesConfig(BaseModel):
    """A user's rasters, variable by variable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="Short name: letters, digits, - and _.")
    ]
    folder: Annotated[
        str,
        Field(
            min_length=1,
            description="Folder of the files, relative to this YAML; ${NAME} is an environment variable: MMNET_..., "
            "..._RASTERS, HOME, SCRATCH, WORK or DATA.",
        ),
    ] = "."
    rest: Annotated[
        Literal["demo", "open", "earthengine"] | None,
        Field(
            description="Source of variables that are not listed: open (services without an account), earthengine, or "
            "demo, the synthetic world; default: none."
        ),
    ] = None
    variables: Annotated[
        dict[str, VariableFiles], Field(min_length=1, description="The variables, by their names in mmnet_maps.")
    ]

    @model_validator(mode="after")
    def _check(self) -> SourcesConfig:
        for name, entry in self.variables.items():
            if name not in VARIABLES:
                raise ValueError(f"unknown variable {name}; expected some of {', '.join(VARIABLES)}")
            check_entry(entry, VARIABLES[name])
        return self


def load_sources(path: str | Path) -> tuple[SourcesConfig, Path | str]:
    """Read the YAML that describes a user's rasters.

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
        When the file cannot be read, a key is missing, unknown or out of bounds, or an environment variable that it
        names is not set, not meant for folders, or part of a URL.
    """
    path = Path(path)
    config = read_model(path, SourcesConfig, "sources", see="examples/zion.yaml")
    folder = _expand(config.folder, path)
    return config, folder if "://" in folder else path.parent / Path(folder).expanduser()


def _expand(text: str, path: Path) -> str:
    """Replace each ${NAME} by the environment variable, whose value is never repeated in a message.

    Only variables that are meant for folders are read, and never into a URL: a YAML that somebody else wrote must not
    send a secret of the environment anywhere.
    """

    def value(found: re.Match[str]) -> str:
        """Return the value of an environment variable; RequestError where it is not set or not meant for folders."""
        name = found[1]
        if not _FOLDER_VARIABLES.fullmatch(name):
            raise RequestError(
                f"{path}: folder names the environment variable {name}, which is not read; expected MMNET_..., "
                "..._RASTERS, HOME, SCRATCH, WORK or DATA; rename it, or write the folder itself"
            )
        if not os.environ.get(name):
            raise RequestError(
                f"{path}: the environment variable {name} is not set; folder {text} needs it; set it to the folder of "
                f"the rasters: export {name}=/path/to/rasters"
            )
        return os.environ[name]

    expanded = re.sub(r"\$\{(\w+)\}", value, text)
    if expanded != text and "://" in expanded:
        raise RequestError(
            f"{path}: folder {text} puts an environment variable into a URL; expected variables only in local folders; "
            "write the whole URL in folder"
        )
    return expanded
