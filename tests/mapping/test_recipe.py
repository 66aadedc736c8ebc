"""The fingerprint of a map holds every option that decides values, and no other."""

from __future__ import annotations

import dataclasses
from datetime import date
from typing import Any

import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.area import Area
from mmnet_maps.mapping.recipe import Recipe

DAY, INPUTS = date(2021, 8, 8), "e3b0"
SQUARE = Area(name="field", geometry=shapely.box(-119.6, 47.1, -119.5, 47.2))
GRID = GeoBox((60, 80), Affine(100.0, 0.0, -1_800_000.0, 0.0, -100.0, 2_900_000.0), "EPSG:5070")
RECIPE = Recipe(
    checkpoints=("3f2a",),
    draws=0,
    members=False,
    precision="float32",
    grid=GRID,
    area=SQUARE,
    smap_resampling="bilinear",
)
OTHERS: dict[str, list[Any]] = {
    "product_version": [3],
    "checkpoints": [("99ee",), ("3f2a", "99ee")],
    "draws": [20],
    "members": [True],
    "precision": ["bfloat16"],
    "grid": [GRID.pad(1), GRID.translate_pix(1, 0), GeoBox(GRID.shape, GRID.affine, "EPSG:6350")],
    "area": [Area(name="field", geometry=shapely.box(-119.6, 47.1, -119.5, 47.3))],
    "smap_resampling": ["nearest"],
}


def test_the_table_above_names_every_field() -> None:
    assert set(OTHERS) == {field.name for field in dataclasses.fields(Recipe)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in OTHERS.items() for value in values])
def test_every_field_changes_the_fingerprint(name: str, value: Any) -> None:
    changed = dataclasses.replace(RECIPE, **{name: value})
    assert changed.fingerprint(DAY, INPUTS) != RECIPE.fingerprint(DAY, INPUTS)
    assert (changed.place_id != RECIPE.place_id) == (name in ("grid", "area"))


def test_a_new_field_is_part_of_the_fingerprint() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Longer(Recipe):
        season: str

    given = {field.name: getattr(RECIPE, field.name) for field in dataclasses.fields(RECIPE)}
    dry, wet = Longer(**given, season="dry"), Longer(**given, season="wet")
    assert len({one.fingerprint(DAY, INPUTS) for one in (RECIPE, dry, wet)}) == 3
    with pytest.raises(TypeError, match="not JSON serializable"):
        Longer(**given, season=object()).fingerprint(DAY, INPUTS)  # type: ignore[arg-type]


def test_day_and_inputs_change_the_fingerprint() -> None:
    prints = {RECIPE.fingerprint(day, inputs) for day in (DAY, date(2021, 8, 9)) for inputs in (INPUTS, "0")}
    assert len(prints) == 4


def test_the_name_of_an_area_changes_nothing() -> None:
    renamed = dataclasses.replace(RECIPE, area=dataclasses.replace(SQUARE, name="mine", notice="a notice"))
    assert renamed.fingerprint(DAY, INPUTS) == RECIPE.fingerprint(DAY, INPUTS)
    assert renamed.place_id == RECIPE.place_id


def test_fingerprints_stay_as_they_were_so_that_finished_maps_are_kept() -> None:
    assert RECIPE.fingerprint(DAY, INPUTS) == "45e6fa4f8d8367bd84da61d692c8003d72f52856a10f5fddbb9ac5553b593bde"
    assert RECIPE.place_id == "3cb37148fe9e0210"
