"""Options that several commands share; those of a map follow from `settings.MapSettings`."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from mmnet_maps.cli.command import INPUT, PICTURE, OutputFile, OutputFolder, PathType
from mmnet_maps.settings import MapSettings

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Number(click.FloatRange):
    """A finite number; click compares with bounds, which NaN passes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number", param, ctx)
        return found


AREA = "FILE|W,S,E,N"
AREA_HELP = "Polygons: GeoJSON, GeoPackage, Shapefile, or bounds in degrees."
SOURCE = "earthengine|YAML|demo"

AOI = click.option("--aoi", required=True, type=INPUT, metavar=AREA, help=AREA_HELP)
STORE = click.argument("store", type=INPUT, metavar="STORE")
QUIET = click.option("--quiet", "-q", is_flag=True, help="No progress bars.")
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="With --source: estimate requests, bytes and time; read no inputs, write nothing."
)
NOTHING_TO_QUIET = click.option("--quiet", "-q", is_flag=True, expose_value=False, help="No effect here.")
DEBUG = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")

SAMPLES = click.option("--samples", required=True, type=INPUT, metavar="PARQUET", help="Table of station samples.")
TRAINED_MODEL = click.option(
    "--model", required=True, type=INPUT, metavar="FOLDER|NAME", help="Checkpoint folder or name of a packaged model."
)
SHALLOW = click.option(
    "--shallow",
    is_flag=True,
    help="Also use ISMN sensors above 4 cm, such as at 0.025 m, at stations without one at 5 cm.",
)
WORKERS = click.IntRange(1, 256)
SEED = click.IntRange(0, 2**32 - 1)


_PATHS: dict[str, PathType] = {
    "stack": INPUT,
    "source": INPUT,
    "model": INPUT,
    "climatology": INPUT,
    "out": OutputFolder(),
}
"""Settings that are paths."""


def days(
    date: str = "Day or range; may be repeated.",
    start: str = "First day, in place of --date.",
    end: str = "Last day.  [default: --start]",
    metavar: str = "DAY|DAY/DAY",
    kind: type[click.Option] = click.Option,
) -> Decorator:
    """Return the options of days, which every command takes in both spellings; see `checks.requested_days`."""
    options = (
        click.option("--date", "dates", cls=kind, multiple=True, metavar=metavar, help=date),
        click.option("--start", metavar="DAY", help=start),
        click.option("--end", metavar="DAY", help=end),
    )

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def json_option(*keys: str, what: str = "result") -> Decorator:
    """Return the option ``--json``; existing files without these keys are not replaced."""
    kind = OutputFile(".json", marks=tuple(f'"{key}"' for key in keys))
    return click.option("--json", "json_path", type=kind, metavar="FILE", help=f"Also write the {what} to a file.")


def picture(help_text: str, *, option: str = "--picture", metavar: str = "PNG") -> Decorator:
    """Return the option of a picture."""
    return click.option(option, type=PICTURE, metavar=metavar, help=help_text)


def setting(name: str, **changes: Any) -> Decorator:
    """Return the option of a setting of maps, with its description, choices and default.

    Without the option the value comes from the settings file, so that the option itself has no default.

    Parameters
    ----------
    name
        A field of `settings.MapSettings`.
    **changes
        Arguments of `click.option` that differ for one command.
    """
    field = MapSettings.model_fields[name]
    extra = field.json_schema_extra
    option = "--" + name.replace("_", "-")
    arguments: dict[str, Any] = {"metavar": extra.get("metavar") if isinstance(extra, dict) else None}
    if field.annotation is bool:
        option += "/--no-" + name.replace("_", "-")
        arguments["default"] = None
    elif get_origin(field.annotation) is tuple:
        arguments["multiple"] = True
    arguments["type"] = _PATHS.get(name) or _type(field)
    arguments["help"] = f"{field.description}{_default(field.default)}"
    return click.option(option, **(arguments | changes))


def _type(field: FieldInfo) -> Any:
    annotation: Any = field.annotation
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    plain = get_args(annotation)[0] if isinstance(annotation, UnionType) else annotation  # such as int | None
    low, least, most = (
        next((getattr(one, name) for one in field.metadata if hasattr(one, name)), None) for name in ("gt", "ge", "le")
    )
    if plain is int:
        return click.IntRange(least, most)
    if plain is float:
        return Number(low, most, min_open=True)
    return {str: click.STRING, bool: click.BOOL}[plain]


def _default(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return ""
    text = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
    return f"  [default: {text}]"


def draws(default: int = 0) -> Decorator:
    """Return the option ``--uncertainty`` of commands that have no settings file."""
    text = f"Monte Carlo dropout members.  [default: {default}]"
    return setting("uncertainty", default=default, help=text)


MODEL = setting(
    "model",
    multiple=False,
    help="Checkpoint folder, or the name of a packaged model." + _default(MapSettings.model_fields["model"].default),
)
CONFIG = click.option(
    "--config",
    type=INPUT,
    metavar="YAML",
    help="Settings file with any of these options.  [default: mmnet.yaml, if it exists]",
)
