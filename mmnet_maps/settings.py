"""Settings of maps, from the call, the environment and a YAML file, in that order; and the reading of YAML files."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from mmnet_maps.errors import InputError, RequestError, brief

SETTINGS_FILE = "mmnet.yaml"

_LONGEST = 120  # characters of a fault in a message

Model = TypeVar("Model", bound=BaseModel)


def _field(metavar: str | None, description: str, **bounds: Any) -> Any:
    """Declare an option: its placeholder on the command line, its description and its bounds."""
    return Field(description=description, json_schema_extra={"metavar": metavar}, **bounds)


class MapSettings(BaseModel):
    """Options of a map, declared here once.

    Each field is a key of ``mmnet.yaml`` (or the file given as ``--config``), an option of the commands that make maps,
    with this description, and a keyword of the Python functions (`MapOptions`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stack: Annotated[str | None, _field("STORE", "Stack that holds the inputs (see mmnet stack).")] = None
    source: Annotated[
        str | None,
        _field(
            "earthengine|open|YAML|demo",
            "Source of the inputs, in place of a stack: earthengine, open, a sources YAML, or demo.",
        ),
    ] = None
    model: Annotated[
        tuple[str, ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
        PlainSerializer(lambda value: value[0] if len(value) == 1 else list(value)),
        _field(
            "FOLDER|NAME", "Checkpoint folder, or the name of a packaged model; several are an ensemble.", min_length=1
        ),
    ] = ("mmnet-uscrn",)
    out: Annotated[str, _field("FOLDER", "Output folder.")] = "maps"
    resolution: Annotated[float, _field("SIZE", "Pixel size in units of the CRS.", gt=0)] = 100.0
    crs: Annotated[str, _field("CRS", "Coordinate reference system of the map.")] = "EPSG:5070"
    smap_resampling: Annotated[
        Literal["bilinear", "nearest"],
        _field(
            None, "How SMAP is resampled to pixels: bilinear between cell centres, or the value of the nearest cell."
        ),
    ] = "bilinear"
    uncertainty: Annotated[
        int, _field("N", "Monte Carlo dropout members to map a standard deviation from; 0 for none.", ge=0, le=1000)
    ] = 0
    members: Annotated[bool, _field(None, "Also keep the members themselves, as Zarr.")] = False
    device: Annotated[Literal["auto", "cpu", "cuda"], _field(None, "Device that the network runs on.")] = "auto"
    precision: Annotated[
        Literal["float32", "bfloat16"], _field(None, "Precision of the network's matrix products.")
    ] = "float32"
    climatology: Annotated[
        str | None,
        _field("STORE", "Climatology to map anomalies and percentiles against (see mmnet climatology)."),
    ] = None
    threads: Annotated[int | None, _field("N", "Processor cores for the network; all by default.", ge=1, le=1024)] = (
        None
    )


class MapOptions(TypedDict, total=False):
    """Keywords of `lazy.downscale` and the other map functions; None and missing ones come from the settings."""

    stack: str | os.PathLike[str] | None
    source: str | os.PathLike[str] | None
    model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
    out: str | os.PathLike[str] | None
    resolution: float | None
    crs: str | None
    smap_resampling: Literal["bilinear", "nearest"] | None
    uncertainty: int | None
    members: bool | None
    device: Literal["auto", "cpu", "cuda"] | None
    precision: Literal["float32", "bfloat16"] | None
    climatology: str | os.PathLike[str] | None
    threads: int | None
    config: str | os.PathLike[str] | None


def settle(options: MapOptions) -> MapSettings:
    """Decide every setting: from the call, for inputs ``$MMNET_STACK``, the settings file, or the default.

    Inputs come from the first of these that names a stack or a source; if none does, see `resolve.open_inputs`.

    Raises
    ------
    RequestError
        When the file cannot be read or a value is not allowed, or both a stack and a source are given.
    """
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    config = given.pop("config", None)
    for key in ("stack", "source", "out", "climatology"):
        if key in given:
            given[key] = os.fspath(given[key])
    if "model" in given:
        models = given["model"]
        given["model"] = tuple(map(os.fspath, [models] if isinstance(models, str | os.PathLike) else models))
        if not given["model"]:
            del given["model"]
    values, origin = _read(config)
    if "stack" in given and "source" in given:
        raise RequestError(
            f"both a stack ({given['stack']}) and a source ({given['source']}) are given; give one: a source fills a "
            "cache by itself, and mmnet stack fills a stack of your own"
        )
    if not {"stack", "source"} & given.keys() and os.environ.get("MMNET_STACK"):
        given["stack"] = os.environ["MMNET_STACK"]
    if {"stack", "source"} & given.keys():
        values = {key: value for key, value in values.items() if key not in ("stack", "source")}
    elif values.get("stack") and values.get("source"):
        raise RequestError(f"{origin} names both a stack and a source; keep the one that the inputs are to come from")
    try:
        settings = MapSettings.model_validate({**values, **given})
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        where = origin if key in values and key not in given else "option"
        unknown = error.errors()[0]["type"] == "extra_forbidden"
        advice = f"the settings are {', '.join(MapSettings.model_fields)}" if unknown else "correct it"
        raise RequestError(f"{where} {first_error(error)}; {advice}") from error
    return settings


def require_stack(settings: MapSettings) -> None:
    """Make sure that there is a store where the settings name a stack, before anything is imported to read it.

    Raises
    ------
    InputError
        When there is none; ``$MMNET_STACK``, which may have been set long ago, is named.
    """
    path = settings.stack
    if path is None or os.path.exists(os.path.join(path, "zarr.json")):
        return
    if path == os.environ.get("MMNET_STACK"):
        raise InputError(f"no stack at {path}, which MMNET_STACK names; correct or unset the variable")
    raise InputError(f"no stack at {path}; build one with: mmnet stack --out {path} …")


def _read(config: str | os.PathLike[str] | None) -> tuple[dict[str, Any], str]:
    path = Path(config or SETTINGS_FILE)
    if config is None and not path.exists():
        return {}, str(path)
    return read_yaml(path, "settings"), str(path)


def read_model(path: str | Path, model: type[Model], what: str, *, see: str = "") -> Model:
    """Read a YAML file and validate it.

    Parameters
    ----------
    path
        The file.
    model
        Its keys, as a pydantic model.
    what
        Name of the kind of file in messages, such as "sources".
    see
        A file whose keys serve as an example, named in messages about a value.

    Raises
    ------
    RequestError
        When the file cannot be read, or a key is missing, unknown or out of bounds.
    """
    values = read_yaml(path, what)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        advice = f"see the keys of {see}" if see else "correct it"
        raise RequestError(f"{path}: {first_error(error)}; {advice}") from error


def read_yaml(path: str | Path, what: str) -> dict[str, Any]:
    """Read a YAML file of keys and values; an empty file has none.

    Raises
    ------
    RequestError
        When the file cannot be read, holds anything but keys and values, or a key twice.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _OneKeyLoader)  # noqa: S506  (a safe loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise RequestError(f"cannot read the {what} {path}: {_reason(error)}; expected a YAML file") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RequestError(f"the {what} {path}: found a {type(values).__name__}; expected lines of 'key: value'")
    return values


class _OneKeyLoader(yaml.SafeLoader):
    """Refuse a key that a mapping holds twice, of which YAML's reader would keep the last, and name the line."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a mapping; a YAML error with the line where a key is given twice."""
        lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            known = (key.tag, key.value)
            if known in lines:
                problem = f"{brief(key.value, 40)} stands in line {lines[known]} already"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[known] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return a value; a YAML error with its line where it is none of its kind."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError) as error:  # such as the day 2021-13-45
            problem = f"{brief(node.value, 40)} is no {node.tag.rpartition(':')[2]} ({brief(error, 40)})"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


def _reason(error: Exception) -> str:
    """Return why a YAML file cannot be read, in one line."""
    if isinstance(error, RecursionError):
        return "its lists or keys are nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {brief(error.problem, _LONGEST)}"
    return str(error.strerror) if isinstance(error, OSError) else brief(error, _LONGEST)


def first_error(error: ValidationError) -> str:
    """Format the first fault of a validation in one line: where, what, the value, and the number of further faults."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]")
    message = brief(first["msg"].removeprefix("Value error, "), _LONGEST)
    own = first["type"] in ("extra_forbidden", "value_error")  # a validator of ours names the value itself
    plain = not own and isinstance(first["input"], str | int | float | None)
    value = f", not {brief(repr(first['input']), 60)}" if plain else ""
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}{': ' if where else ''}{message}{value}{more}"
