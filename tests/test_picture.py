"""The picture: what it reads, which scale and window it chooses, and that odd shapes and days do not break it."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import rasterio
import shapely
from matplotlib.image import imread
from odc.geo.geobox import GeoBox

from mmnet_maps.aoi import LONLAT, transform_geometry
from mmnet_maps.picture import COLOURS, MOST_DAYS, DayPicture, closest_look, colour_range, draw, nice_length

DAY = date(2021, 8, 8)


def layers(folder: Path, geobox: GeoBox, values: np.ndarray, name: str = "") -> dict[str, Path]:
    """Two GeoTIFFs as the product has them, SMAP being the smoothed map."""
    found = {}
    for layer, content in (("soil_moisture", values), ("smap", np.full_like(values, np.nanmean(values)))):
        path = folder / f"{name}{layer}.tif"
        packed = np.where(np.isnan(content), 65535, np.rint(np.nan_to_num(content) * 1e4)).astype(np.uint16)
        profile = {"driver": "GTiff", "dtype": "uint16", "count": 1, "nodata": 65535, "crs": str(geobox.crs)}
        height, width = values.shape
        with rasterio.open(path, "w", height=height, width=width, transform=geobox.affine, **profile) as data:
            data.write(packed, 1)
            data.scales = (1e-4,)
        found[layer] = path
    return found


def area_of(geobox: GeoBox) -> shapely.Polygon:
    return transform_geometry(shapely.box(*geobox.boundingbox.bbox), geobox.crs, LONLAT)


def field(height: int, width: int) -> np.ndarray:
    rows, cols = np.mgrid[0:height, 0:width]
    return (0.2 + 0.1 * np.sin(rows / 9) * np.cos(cols / 7)).astype(np.float32)


def grid(height: int, width: int, crs: str = "EPSG:5070", size: float = 100.0) -> GeoBox:
    left, top = (-1_800_000, 2_960_000) if crs == "EPSG:5070" else (-119.6, 47.4)
    return GeoBox.from_bbox((left, top - height * size, left + width * size, top), crs, shape=(height, width))


@pytest.mark.parametrize(
    ("shape", "crs", "size"),
    [
        ((300, 280), "EPSG:5070", 100.0),
        ((20, 400), "EPSG:5070", 100.0),
        ((400, 20), "EPSG:5070", 100.0),
        ((1, 1), "EPSG:5070", 100.0),
        ((200, 220), "EPSG:4326", 0.001),
        ((1500, 1700), "EPSG:5070", 100.0),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_it_is_drawn_for_any_shape(tmp_path: Path, shape: tuple[int, int], crs: str, size: float, count: int) -> None:
    geobox = grid(*shape, crs, size)
    values = field(*shape)
    values[: shape[0] // 3, : shape[1] // 3] = np.nan
    days = [
        DayPicture(day=DAY + timedelta(days=k), layers=layers(tmp_path, geobox, values, str(k))) for k in range(count)
    ]
    draw(tmp_path / "p.png", days, area_of(geobox), title="Test", source="Source.", synthetic=True)
    height, width, _ = imread(tmp_path / "p.png").shape
    assert width > 2000
    assert height > 500 * count
    assert b"mmnet_maps" in (tmp_path / "p.png").read_bytes()[:2048]


def test_nothing_mapped_is_a_picture_too(tmp_path: Path) -> None:
    geobox = grid(30, 40)
    empty = np.full((30, 40), np.nan, np.float32)
    with pytest.warns(RuntimeWarning, match="Mean of empty slice"):
        day = DayPicture(day=DAY, layers=layers(tmp_path, geobox, empty))
    draw(tmp_path / "p.png", [day], area_of(geobox), title="Test", source="Source.", synthetic=False)
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_synthetic_inputs_show(tmp_path: Path) -> None:
    geobox = grid(300, 280)
    day = DayPicture(day=DAY, layers=layers(tmp_path, geobox, field(300, 280)))
    for synthetic in (False, True):
        draw(tmp_path / f"{synthetic}.png", [day], area_of(geobox), title="T", source="S", synthetic=synthetic)
    plain, marked = (imread(tmp_path / f"{synthetic}.png") for synthetic in (False, True))
    differing = (np.abs(plain - marked).max(axis=2) > 0.05).any(axis=0)
    thirds = np.array_split(differing, 3)
    assert all(third.any() for third in thirds), "every panel is marked"


def test_the_same_map_gives_the_same_bytes(tmp_path: Path) -> None:
    geobox = grid(60, 50)
    day = DayPicture(day=DAY, layers=layers(tmp_path, geobox, field(60, 50)))
    for name in ("a", "b"):
        draw(tmp_path / f"{name}.png", [day], area_of(geobox), title="T", source="S", synthetic=False)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_of_many_days_some_are_shown(tmp_path: Path) -> None:
    geobox = grid(20, 30)
    files = layers(tmp_path, geobox, field(20, 30))
    days = [DayPicture(day=DAY + timedelta(days=k), layers=files) for k in range(40)]
    heights = []
    for shown in (days, days[:MOST_DAYS]):
        draw(tmp_path / "p.png", shown, area_of(geobox), title="T", source="S", synthetic=False)
        heights.append(imread(tmp_path / "p.png").shape[0])
    assert heights[0] == heights[1]


def test_the_closer_look_is_where_most_goes_on() -> None:
    from mmnet_maps.picture import _Panel

    values = np.full((200, 200), 0.2, np.float32)
    values[120:140, 30:50:2] = 0.4
    values[10:30, 150:170:2] = 0.4
    values[5:25, 140:175] = np.nan  # more goes on here, but half of it is not mapped
    panel = _Panel(values=values, extent=(0.0, 20_000.0, 0.0, 20_000.0))
    left, right, bottom, top = closest_look(panel, 4000.0)
    assert (right - left, top - bottom) == (4000, 4000)
    assert left <= 3000
    assert right >= 4900
    assert bottom <= 20_000 - 14_000
    assert top >= 20_000 - 12_000


def test_the_scale_is_the_middle_of_all_panels() -> None:
    wide = np.linspace(0.1, 0.3, 1000, dtype=np.float32)
    assert colour_range([wide, np.full(10, 0.9, np.float32)]) == (0.1, 0.3)
    low, high = colour_range([np.full(50, 0.22, np.float32)])
    assert low <= 0.22 <= high
    assert high - low == pytest.approx(0.1)


def test_lightness_falls_evenly_along_the_scale() -> None:
    rgb = matplotlib.colormaps[COLOURS](np.linspace(0, 1, 64))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    lightness = 116 * np.cbrt(luminance) - 16
    assert (np.diff(lightness) < 0).all()
    assert np.abs(np.diff(lightness)).max() < 4 * np.abs(np.diff(lightness)).mean()


@pytest.mark.parametrize("most", [3.0, 19_999.0, 5e5])
def test_scale_bars_have_round_lengths(most: float) -> None:
    length = nice_length(most)
    assert length <= most < 2.5 * length
    assert f"{length:e}"[0] in "125"
