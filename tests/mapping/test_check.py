"""Checks that a model can run on a stack, against the map's own checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from odc.geo.geobox import GeoBox

from analytic import source_of
from mmnet_maps.errors import InputError
from mmnet_maps.grid.area import Area
from mmnet_maps.grid.tiles import target_grid, tiles, touched_tiles
from mmnet_maps.mapping.check import check, spans
from mmnet_maps.stack.availability import require, require_values
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.inventory import take_inventory
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.store import Stack
from patchy import DAY, HERE, NEEDS, THERE, Patchy, fill, later, patchy_stack


@pytest.fixture(scope="module")
def patchy(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return patchy_stack(tmp_path_factory.mktemp("check") / "s.zarr", Patchy(without=source_of(NEEDS).without))


def able(stack: Stack, pieces: Sequence[GeoBox], day: date, needs: Needs) -> bool:
    """Return whether the map command would go on."""

    def passes(test: Callable[..., None], piece: GeoBox) -> bool:
        try:
            test(stack, piece, needs, [day])
        except InputError:
            return False
        return True

    return all(passes(require, piece) and passes(require_values, piece) for piece in pieces)


@pytest.mark.parametrize("valued", [None, 1])
@pytest.mark.parametrize("area", [HERE, THERE], ids=["here", "there"])
def test_a_check_agrees_with_the_map_command(patchy: Stack, area: Area, valued: int | None) -> None:
    days, needs = [later(k) for k in range(-8, 9)], replace(NEEDS, valued=valued)
    found = check(patchy, needs, days, area)
    pieces = [tile.geobox for tile in touched_tiles(area, target_grid(area))]
    expected = [day for day in days if able(patchy, pieces, day, needs)]
    assert found.able == expected
    assert set(found.quality) == set(expected)
    assert found.rim == 0
    assert set().union(*(gap.days for gap in found.gaps)) == set(days) - set(expected)


def test_a_check_without_an_area_is_about_all_blocks(tmp_path: Path) -> None:
    stack = fill(tmp_path / "s.zarr", source_of(NEEDS), HERE, [DAY])
    found = check(stack, NEEDS, [DAY, later(1)])
    assert found.able == [DAY]
    assert 0 <= found.rim < 1
    assert [gap.days for gap in found.gaps] == [(later(1),)] * 2
    smap, weather = (gap.text for gap in found.gaps)
    assert smap == "smap (smap) was never fetched for 2021-08-09"
    assert weather == "weather (pr) was never fetched for 2021-08-09"
    assert fill(tmp_path / "s.zarr", source_of(NEEDS), THERE, [later(1)])
    both = check(Stack(tmp_path / "s.zarr"), NEEDS, [DAY, later(1)])
    assert both.able == []
    assert all("blocks" in gap.text for gap in both.gaps if gap.text.startswith("optical"))


def test_empty_inputs_are_named(patchy: Stack) -> None:
    lacks = check(patchy, NEEDS, [later(2)], HERE).gaps
    assert [gap.text for gap in lacks] == ["smap (smap) holds no value on 2021-08-10"]
    assert lacks[0].days == (later(2),)


def test_variables_that_a_stack_does_not_have_are_named(tmp_path: Path) -> None:
    needs = Needs(snapshot=("smap", "vv", "landcover"), series=("pr", "lst"), steps=3, includes_day=True)
    grid = target_grid(HERE)
    stack = fetch(
        tmp_path / "s.zarr",
        [source_of(needs)],
        Demand(grid=grid, tiles=tiles(grid), needs=needs, days=[DAY]),
        quiet=True,
    )
    assert check(stack, needs, [DAY], HERE).gaps == ()
    found = check(stack, NEEDS, [DAY], HERE)
    assert [gap.text for gap in found.gaps] == ["the stack has no red, which the model needs"]
    assert found.able == []


def test_quality_is_that_of_the_days_inputs(patchy: Stack) -> None:
    quality = check(patchy, NEEDS, [DAY], HERE).quality[DAY]
    assert list(quality) == ["landcover", "optical", "sar", "smap", "lst", "weather"]
    table = take_inventory(patchy, [later(k) for k in range(-2, 1)], HERE).table
    assert quality["sar"] == pytest.approx((table["vv"].usable[2], table["vv"].age[2]))
    assert quality["sar"][1] >= 20  # the radar was last seen that long ago
    assert quality["lst"][0] == pytest.approx(table["lst"].usable.mean())
    assert quality["optical"] == pytest.approx((table["red"].usable[2], table["red"].age[2]))


def test_spans_stay_short() -> None:
    days = [later(2 * k) for k in range(20)]
    assert spans(days).count(",") == 5
    assert "15 more" in spans(days)
