"""Services of terrain, soil and land cover that are down: each stops its own product only; stacks and points resume."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from analytic import LATTICES, AnalyticSource
from fake_open import FakeOpen, Reply, failing
from mmnet_maps.errors import InputError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import conus_grid, pixel_of, target_grid, touched_tiles
from mmnet_maps.mapping.check import check as find_gaps
from mmnet_maps.sources.base import Source
from mmnet_maps.sources.open import http
from mmnet_maps.stack.availability import NotFetchedError, require
from mmnet_maps.stack.fetch import assign, estimate, fetch, sum_costs
from mmnet_maps.stack.layout import create
from mmnet_maps.stack.needs import Demand, Needs, uses
from mmnet_maps.stack.pixels import point_stacks, read_pixel
from mmnet_maps.stack.point_estimate import estimate_points
from mmnet_maps.stack.point_plan import Point
from mmnet_maps.stack.reader import read_block
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import STATIC_GROUPS, VARIABLES
from open_routes import Tiles, Wcs
from open_setup import loopback_source
from open_values import Expectation
from world_values import verify

DAY = date(2021, 8, 3)
STATIC = ("elevation", "slope", "aspect", "landcover", "clay", "sand", "bulk_density")
NEEDS = Needs(snapshot=STATIC, series=("smap",), steps=1, includes_day=True)
AREA = read_aoi("-119.68,47.05,-119.66,47.06")
GRID = target_grid(AREA)
DEMAND = Demand(grid=GRID, tiles=touched_tiles(AREA, GRID), needs=NEEDS, days=[DAY])

PATHS = {"terrain": "/3dep", "landcover": "/wcs", "soil": "/polaris"}
TITLES = {"terrain": "3DEP 1/3 arc-second", "landcover": "Annual NLCD", "soil": "POLARIS"}
LABELS = {"terrain": "elevation (usgs-3dep)", "landcover": "landcover (usgs-nlcd)", "soil": "soil (duke-polaris)"}

Sources = Callable[[], list[Source]]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpen]:
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(http, "_FIRST_WAIT", 0.01)
    with FakeOpen() as fake:
        fake.serve(Tiles(), Wcs())
        yield fake


@pytest.fixture
def sources(server: FakeOpen, tmp_path: Path) -> Sources:
    """Make new sources, as each run of a command does: the services, and SMAP by a formula."""
    return lambda: [
        loopback_source(server, tmp_path, ["elevation", "landcover", "soil"], retries=1),
        AnalyticSource(without=tuple(name for name in VARIABLES if name != "smap")),
    ]


def stop(server: FakeOpen, *groups: str) -> None:
    """Stop the services of some groups, start the others, and count requests from now on."""
    server.log.clear()
    server.faults[:] = [failing(PATHS[group], Reply(status=503)) for group in groups]


def asked(server: FakeOpen) -> set[str]:
    """The groups whose services were asked."""
    return {group for group, path in PATHS.items() if server.requests(path)}


def fetched(stack: Stack) -> set[str]:
    """The groups of which all blocks of the map were fetched."""
    found = uses(stack, GRID, NEEDS, [DAY])
    return {group.name for group, window, days in found if stack.marks(group, window, days).all()}


def expected(name: str, geobox: GeoBox, day: date) -> tuple[NDArray[np.generic], NDArray[np.generic], float]:
    if name != "smap":
        return Expectation()(name, geobox, day)
    value = AnalyticSource().value(name, geobox, day)
    return value, value, 1e-4


def check(stack: Stack) -> None:
    checked = verify(stack, GRID, NEEDS, [DAY], expected)
    assert set(checked) == {*STATIC, "smap"}
    assert all(count for count, _ in checked.values())


def reason(group: str, before: str = "") -> str:
    """A pattern of the part of the message that names a group, its service and the alternative."""
    key = LABELS[group].split()[0]
    later = f"run the same command again later, or give files of {key} (a YAML with 'rest: open')"
    return f"{re.escape(f'{before}{LABELS[group]}: no answer from ')}[^;]*; {re.escape(later)}"


@pytest.mark.parametrize("down", [*((group,) for group in STATIC_GROUPS), ("terrain", "soil")])
def test_a_service_that_is_down_stops_its_product_alone(
    server: FakeOpen, sources: Sources, tmp_path: Path, caplog: pytest.LogCaptureFixture, down: tuple[str, ...]
) -> None:
    path = tmp_path / "s.zarr"
    stop(server, *down)
    with pytest.raises(InputError) as caught:
        fetch(path, sources(), DEMAND, quiet=True)
    assert caught.value.exit_code == 3
    others = "".join(f"; also {group}" for group in down[1:])
    assert re.fullmatch(f"not all inputs were fetched: {down[0]}: {reason(down[0])}{others}", str(caught.value))
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    for group, text in zip(down, errors, strict=True):
        assert re.fullmatch(rf"{group} \({TITLES[group]}\): {reason(group)}", text)
    assert fetched(Stack(path)) == {*STATIC_GROUPS, "smap"} - set(down)
    with pytest.raises(NotFetchedError, match=f"has no {down[0]} in this area, needed for the map of {DAY}"):
        require(Stack(path), GRID, NEEDS, [DAY])
    gaps = [gap.text for gap in find_gaps(Stack(path), NEEDS, [DAY], AREA).gaps]
    assert [re.sub(r" \(.*\)", "", gap) for gap in gaps] == [f"{group} was never fetched" for group in down]
    stop(server)
    assert {one.group for one in estimate(path, sources(), DEMAND)} == set(down)
    stop(server)
    check(fetch(path, sources(), DEMAND, quiet=True))
    assert asked(server) == set(down)
    stop(server)
    require(fetch(path, sources(), DEMAND, quiet=True), GRID, NEEDS, [DAY])
    assert not asked(server)


def old_stack(path: Path, sources: list[Source]) -> None:
    """Make a stack as software of 2026-11 and before did, with all variables without a time axis in one group."""
    chosen = assign(sources)
    provenance = {name: source.variables()[name] for name, source in chosen.items()}
    groups = {"static": (DEMAND.target, list(STATIC)), "smap": (LATTICES["smap"], ["smap"])}
    create(path, DEMAND.target, groups, provenance)


def test_a_stack_with_one_group_for_all_three_is_filled_and_read_as_before(
    server: FakeOpen, sources: Sources, tmp_path: Path
) -> None:
    path = tmp_path / "old.zarr"
    old_stack(path, sources())
    cover = replace(NEEDS, snapshot=("landcover",))
    with pytest.raises(NotFetchedError, match="has no static in this area"):
        require(Stack(path), GRID, cover, [DAY])
    together, apart = (
        {one.group: one for one in estimate(place, sources(), DEMAND)} for place in (path, tmp_path / "none.zarr")
    )
    assert together["static"].bytes == sum(apart[group].bytes for group in STATIC_GROUPS)
    assert together["static"].cost == sum_costs([apart[group].cost for group in STATIC_GROUPS])
    stop(server, "soil")
    with pytest.raises(InputError, match=f"not all inputs were fetched: static: {reason('soil')}"):
        fetch(path, sources(), DEMAND, quiet=True)
    assert fetched(Stack(path)) == {"smap"}  # one mark for all three
    stop(server)
    old = fetch(path, sources(), DEMAND, quiet=True)
    check(old)
    require(old, GRID, cover, [DAY])
    stop(server)
    for refresh in (False, True):
        fetch(path, sources(), DEMAND, quiet=True, refresh=refresh)
    assert not server.requests("/wcs")
    assert not server.requests(method="GET")  # whether tiles exist is asked, by HEAD; no values
    new = fetch(tmp_path / "new.zarr", sources(), DEMAND, quiet=True)
    assert set(old.groups) == {"static", "smap"}
    assert set(new.groups) == {*STATIC_GROUPS, "smap"}
    one, other = (
        next(iter(read_block(stack, GRID, NEEDS, [DAY], smap_resampling="bilinear").snapshots)) for stack in (old, new)
    )
    assert set(one.fine) == set(STATIC)
    for name in STATIC:
        np.testing.assert_array_equal(one.fine[name], other.fine[name], err_msg=name)
    recorded = [stack.revisions(*use).any() for stack in (old, new) for use in uses(stack, GRID, NEEDS, [DAY])]
    assert recorded.count(True) == 4  # of what the services gave


def test_points_keep_what_the_other_services_gave(server: FakeOpen, sources: Sources, tmp_path: Path) -> None:
    places = [(-119.67, 47.055), (-119.40, 47.20), (-119.39, 47.21)]
    points = [
        Point(name=f"point {k}", pixel=pixel_of(conus_grid(), *place), days=(DAY,)) for k, place in enumerate(places)
    ]
    folder = tmp_path / "reads"
    stop(server, "soil")
    with pytest.raises(InputError) as caught:
        list(point_stacks(sources(), points, NEEDS, folder=folder))
    assert re.fullmatch(f"not all inputs were fetched: soil: {reason('soil', 'point 0: ')}", str(caught.value))
    stop(server)
    left = estimate_points(sources(), points, NEEDS, folder=folder)
    assert [(one.group, one.reads) for one in left.groups] == [("soil", 3)]
    stop(server)
    found = [
        read_pixel(stack, points[k].pixel, [DAY], NEEDS)
        for k, _, stack in point_stacks(sources(), points, NEEDS, folder=folder)
    ]
    assert asked(server) == {"soil"}
    for name in STATIC:
        sure = 0
        for point, columns in zip(points, found, strict=True):
            low, high, tolerance = expected(name, point.pixel.pad(1), DAY)  # slope needs the pixels around
            if np.isfinite(low[1, 1]) and np.isfinite(high[1, 1]):
                assert low[1, 1] - tolerance <= columns[name][0] <= high[1, 1] + tolerance, name
                sure += 1
        assert sure, name
