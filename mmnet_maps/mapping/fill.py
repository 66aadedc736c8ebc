"""Fill a stack with the inputs of maps: ``mmnet stack``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from mmnet_maps.errors import RequestError, bytes_text, counted, number_text
from mmnet_maps.grid.area import parse_days, read_aoi
from mmnet_maps.grid.tiles import DEFAULT_CRS, DEFAULT_RESOLUTION, grid_of_tiles, target_grid, touched_tiles
from mmnet_maps.mapping.request import needs_of
from mmnet_maps.settings import MapOptions, settle
from mmnet_maps.sources import open_source
from mmnet_maps.sources.base import Cost, Served
from mmnet_maps.stack.fetch import Estimate, estimate, fetch, sum_costs
from mmnet_maps.stack.needs import Demand

_SERVICES = ("product", "variables", "service", "login", "instead of it")


def fill_stack(
    aoi: Any,
    dates: Any,
    *,
    tiles: Sequence[str] | str | None = None,
    dry_run: bool = False,
    refresh: bool = False,
    verify: bool = True,
    quiet: bool = False,
    **options: Unpack[MapOptions],
) -> Path | str:
    """Fetch the inputs for maps of an area and some days from a source into a stack, which is created if needed.

    Parameters
    ----------
    aoi, dates, quiet, source, model, resolution, crs
        As `lazy.downscale_product`.
    tiles
        Ids of tiles of the default grid, in place of an area; text is split at commas.
    dry_run
        Only estimate what would be fetched.
    refresh
        Fetch all days again that are not final, and ask about final ones too.
    verify
        Compare the data that the maps read with their checksums, and fetch damaged ones again: as long as reading them.
    stack
        The store to fill.

    Returns
    -------
    Path or str
        The stack; for a dry run, the estimate as a table.
    """
    from mmnet_maps.model.saved import read_saved

    out, source = options.pop("stack", None), options.get("source")
    if out is None or source is None:
        raise RequestError("a stack is filled from a source into a store; give both source and stack")
    if (aoi is None) == (tiles is None):
        raise RequestError("give either --aoi or --tiles, the area or the tiles of the default grid to fill")
    settings, days = settle(options), parse_days(dates)
    if tiles is not None and (settings.resolution, settings.crs) != (DEFAULT_RESOLUTION, DEFAULT_CRS):
        raise RequestError(
            f"--tiles names tiles of the default grid, {DEFAULT_RESOLUTION:g} m in {DEFAULT_CRS}, not of "
            f"{settings.resolution:g} in {settings.crs}; leave --resolution and --crs out, or give --aoi"
        )
    if tiles is None:
        area = read_aoi(aoi)
        grid = target_grid(area, resolution=settings.resolution, crs=settings.crs)
        wanted = touched_tiles(area, grid)
    else:
        grid, wanted = grid_of_tiles(tiles.split(",") if isinstance(tiles, str) else tiles)
    needs = needs_of(read_saved(settings.model[0])[0].spec)
    demand = Demand(grid=grid, tiles=wanted, needs=needs, days=days)
    sources = open_source(str(source))
    if not dry_run:
        return fetch(Path(out), sources, demand, refresh=refresh, quiet=quiet, verify=verify).path
    text = format_estimates(estimate(Path(out), sources, demand, refresh=refresh))
    services = [row for one in sources if isinstance(one, Served) for row in one.services()]
    return "\n".join([text, "", *_aligned([_SERVICES, *services])]) if services else text


def format_estimates(estimates: Sequence[Estimate]) -> str:
    """Format the estimated cost of fetching as a table."""
    if not estimates:
        return "nothing is missing: the stack holds all that is needed"
    rows = [("group", "from", "days", "reads", "stored, packed", "requests", "received")]
    for item in estimates:
        days = f"{item.days}, {item.first} to {item.last}" if item.days > 1 else "1"
        asked = (str(item.cost.requests), bytes_text(item.cost.bytes)) if item.cost else ("", "")
        figures = (bytes_text(item.bytes), *asked) if item.known else ("unknown", "unknown", "unknown")
        rows.append((item.group, ", ".join(item.products), days, str(item.reads), *figures))
    lines, known = _aligned(rows), [item for item in estimates if item.known]
    size = bytes_text(sum(item.bytes for item in known))
    total = f"in total{without(estimates)} {size} to be stored, packed; less on disk"
    costs = [item.cost for item in known if item.cost]
    if not costs:
        return "\n".join([*lines, total])
    cost = sum_costs(costs)
    place = " to Earth Engine" if cost.eecu_hours else ""
    total += f"; {counted(cost.requests, 'request')}{place}, {bytes_text(cost.bytes)} received"
    if cost.eecu_hours:
        total += f", {number_text(cost.values)} values computed there"
    return "\n".join([*lines, total, *price_lines(cost)])


def price_lines(cost: Cost) -> list[str]:
    """Return what Earth Engine is likely to charge, compared with the quotas of its tiers; none for other services."""
    if not cost.eecu_hours:
        return []
    from mmnet_maps.sources.earthengine.price import price_rows, price_text

    return [price_text(cost.eecu_hours), *_aligned(price_rows(cost.eecu_hours))]


def without(estimates: Sequence[Estimate]) -> str:
    """Return the groups of which a total knows nothing, for a sentence; empty where there are none.

    Examples
    --------
    >>> without([])
    ''
    """
    unknown = [item.group for item in estimates if not item.known]
    return f" without {', '.join(unknown)}, whose services do not answer," if unknown else ""


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
