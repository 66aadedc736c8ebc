"""Texture classes compared with the triangle drawn as polygons, and with published examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from mmnet_maps.errors import InputError
from mmnet_maps.training.experiment.station_classes import (
    ELEVATION_BANDS,
    ELEVATION_EDGES,
    TEXTURES,
    elevation_band,
    soil_texture,
)

# Corners of the classes in the triangle as the manual draws it, (sand, clay) in percent.
TRIANGLE = {
    "sand": [(100, 0), (90, 10), (85, 0)],
    "loamy sand": [(85, 0), (90, 10), (85, 15), (70, 0)],
    "sandy loam": [(70, 0), (85, 15), (80, 20), (52, 20), (52, 7), (43, 7), (50, 0)],
    "loam": [(43, 7), (52, 7), (52, 20), (45, 27), (23, 27)],
    "silt loam": [(50, 0), (23, 27), (0, 27), (0, 12), (8, 12), (20, 0)],
    "silt": [(20, 0), (8, 12), (0, 12), (0, 0)],
    "sandy clay loam": [(80, 20), (65, 35), (45, 35), (45, 27), (52, 20)],
    "clay loam": [(45, 27), (45, 40), (20, 40), (20, 27)],
    "silty clay loam": [(20, 27), (20, 40), (0, 40), (0, 27)],
    "sandy clay": [(65, 35), (45, 55), (45, 35)],
    "silty clay": [(20, 40), (0, 60), (0, 40)],
    "clay": [(45, 40), (45, 55), (0, 100), (0, 60), (20, 40)],
}
POLYGONS = {name: shapely.Polygon(corners) for name, corners in TRIANGLE.items()}


def test_the_polygons_are_the_whole_triangle_once() -> None:
    assert set(POLYGONS) == set(TEXTURES)
    assert sum(polygon.area for polygon in POLYGONS.values()) == 5000
    assert shapely.union_all(list(POLYGONS.values())).equals(shapely.Polygon([(0, 0), (100, 0), (0, 100)]))


@given(tenths=st.tuples(st.integers(0, 1000), st.integers(0, 1000)), dtype=st.sampled_from([np.float32, np.float64]))
def test_every_point_of_the_triangle_has_the_class_whose_polygon_holds_it(
    tenths: tuple[int, int], dtype: type[np.floating]
) -> None:
    first, second = sorted(tenths)
    clay, sand = first / 10, (second - first) / 10
    found = str(soil_texture(dtype(clay), dtype(sand)))
    point = shapely.Point(sand, clay)
    assert found in TEXTURES
    assert POLYGONS[found].distance(point) < 1e-9
    inside = [name for name, polygon in POLYGONS.items() if polygon.contains(point)]
    if inside and all(polygon.boundary.distance(point) > 1e-9 for polygon in POLYGONS.values()):
        assert [found] == inside


@given(clay=st.floats(0, 100), share=st.floats(0, 1))
def test_no_point_is_without_a_class(clay: float, share: float) -> None:
    assert str(soil_texture(clay, (100 - clay) * share)) in TEXTURES


def test_a_point_on_a_border_has_the_class_that_the_manual_names() -> None:
    # (clay, silt): "27 to less than 40 percent clay", "45 percent or less sand", "50 percent or more silt" and so on.
    borders = {
        (27, 28): "clay loam",  # sand is 45: not more than 45, as sandy clay loam asks
        (40, 15): "clay",
        (35, 20): "clay loam",
        (35, 19): "sandy clay",
        (20, 28): "loam",
        (20, 27): "sandy clay loam",
        (7, 50): "silt loam",
        (7, 41): "loam",
        (0, 50): "silt loam",
        (0, 80): "silt",
        (12, 80): "silt loam",
        (0, 30): "sandy loam",
        (0, 15): "loamy sand",
        (10, 0): "loamy sand",
        (15, 0): "sandy loam",
        (40, 40): "silty clay",
        (40, 60): "silty clay",
        (39, 41): "silty clay loam",
        (100, 0): "clay",
        (0, 0): "sand",
        (0, 100): "silt",
    }
    for (clay, silt), name in borders.items():
        assert str(soil_texture(clay, 100 - clay - silt)) == name, (clay, silt)


def test_the_examples_of_the_soiltexture_package() -> None:
    """Moeys, soiltexture (R), the example data of its documentation in the USDA triangle."""
    clay = [5, 60, 15, 5, 25, 5, 25, 45, 65, 75, 13, 47]
    sand = [90, 32, 70, 70, 20, 10, 10, 10, 20, 10, 70, 10]
    short = ["Sa", "Cl", "SaLo", "SaLo", "SiLo", "Si", "SiLo", "SiCl", "Cl", "Cl", "SaLo", "SiCl"]
    names = {"Sa": "sand", "Cl": "clay", "SaLo": "sandy loam", "SiLo": "silt loam", "Si": "silt", "SiCl": "silty clay"}
    assert soil_texture(clay, sand).tolist() == [names[name] for name in short]


def test_shapes_broadcast_and_nan_is_no_class() -> None:
    found = soil_texture(np.array([[10.0], [np.nan]]), np.array([40.0, 60.0, np.nan]))
    assert found.tolist() == [["silt loam", "sandy loam", ""], ["", "", ""]]


@pytest.mark.parametrize(("clay", "sand"), [(60, 41), (-1, 20), (20, -0.5), (101, 0)])
def test_impossible_soils_are_refused(clay: float, sand: float) -> None:
    with pytest.raises(InputError, match=rf"clay {clay:g} % and sand {sand:g} % are not a soil; expected percentages"):
        soil_texture([30, clay], [30, sand])


@given(metres=st.integers(-100, 4500))
def test_a_band_holds_its_lower_edge(metres: int) -> None:
    name = str(elevation_band(metres))
    lower = [-1000, *ELEVATION_EDGES]
    upper = [*ELEVATION_EDGES, 10_000]
    assert [a <= metres < b for a, b in zip(lower, upper)].index(True) == ELEVATION_BANDS.index(name)


def test_real_stations_have_classes() -> None:
    path = Path(__file__).parents[4] / "shared/data/stations/stations.csv"
    if not path.exists():
        pytest.skip("the table of real stations is not at hand")
    table = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")
    found = soil_texture(table["clay"], table["sand"])
    assert found.shape == (101,)
    assert set(found) <= set(TEXTURES)
    assert set(elevation_band(table["elevation"])) == set(ELEVATION_BANDS)
