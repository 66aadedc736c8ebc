"""The picture: true colours on one scale, north up, marked when synthetic, for areas of any shape."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer
from scipy.ndimage import uniform_filter
from shapely.geometry.base import BaseGeometry

from mmnet_maps.errors import OutputError
from mmnet_maps.files import is_ours
from mmnet_maps.plots.colours import COLOURS, NODATA
from mmnet_maps.product import day_writer as write
from mmnet_maps.product.day_writer import DayWriter, Revision
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.picture import DayPicture, draw
from mmnet_maps.product.picture_panels import Cells, detail_box, in_cells, read_panel, sums_around, to_local, view_of

DAY = date(2021, 8, 8)
GREY = to_rgb(NODATA)
Float = NDArray[np.float32]
Image = NDArray[np.float32]


@pytest.fixture(autouse=True)
def half_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw at half the resolution, with a quarter of the pixels to compute, write, read and compare."""
    monkeypatch.setattr("mmnet_maps.product.picture._DPI", 85)
    monkeypatch.setattr("mmnet_maps.product.picture_panels._PIXELS", 700)


def grid(height: int, width: int, resolution: float = 100.0, crs: str = "EPSG:5070") -> GeoBox:
    left, top = {"EPSG:4326": (-119.6, 47.6), "EPSG:32611": (270_000.0, 5_260_000.0)}.get(
        crs, (-1_870_000.0, 2_930_000.0)
    )
    bounds = (left, top - height * resolution, left + width * resolution, top)
    return GeoBox.from_bbox(bounds, crs=crs, shape=(height, width), tight=True)


def product(out: Path, values: Float, box: GeoBox, day: date = DAY, smap: Float | None = None) -> DayPicture:
    """A product of one day; SMAP is the mean unless given."""
    if smap is None:
        smap = np.full(values.shape, np.nanmean(values) if np.isfinite(values).any() else np.nan, np.float32)
    layers = {"soil_moisture": values, "quality": np.zeros(values.shape, np.uint16), "smap": smap}
    revision = Revision(
        name="area",
        day=day,
        geobox=box,
        layers=list(layers),
        synthetic=False,
        tags={},
        properties={},
        fingerprint="f",
    )
    with DayWriter(out, revision) as writer:
        rows, cols = (slice(0, size) for size in values.shape)
        writer.write(rows, cols, {name: LAYERS[name].pack(block) for name, block in layers.items()})
        cells = Cells(values=smap, transform=box.affine, crs=str(box.crs))
        return DayPicture(day=day, layers=writer.finish(None).layers, cells=cells)


def outline(box: GeoBox) -> shapely.Polygon:
    transformer = Transformer.from_crs(str(box.crs), "OGC:CRS84", always_xy=True)
    edges = shapely.segmentize(shapely.box(*box.boundingbox.bbox), (box.boundingbox.span_x) / 20)
    points: shapely.Polygon = shapely.transform(
        edges, lambda at: np.column_stack(transformer.transform(at[:, 0], at[:, 1]))
    )
    return points


def drawn(path: Path, days: list[DayPicture], box: GeoBox, *, synthetic: bool = False) -> Image:
    return draw_area(path, days, outline(box), synthetic=synthetic)


def draw_area(path: Path, days: list[DayPicture], area: BaseGeometry, *, synthetic: bool = False) -> Image:
    draw(path, days, area, title="Area", source="Somebody's inputs.", synthetic=synthetic)
    image: Image = imread(path)[..., :3]
    return image


def places(image: Image, colour: tuple[float, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.nonzero(np.abs(image - np.array(colour)).max(2) < 0.012)


def test_all_days_and_panels_share_one_scale(tmp_path: Path) -> None:
    box = grid(35, 35)
    dry, wet = np.full((35, 35), 0.1, np.float32), np.full((35, 35), 0.4, np.float32)
    days = [product(tmp_path, dry, box), product(tmp_path, wet, box, DAY + timedelta(1), smap=dry)]
    image = drawn(tmp_path / "a.png", days, box)
    maps = image[: round(image.shape[0] * 0.87)]
    sandy, blue = places(maps, to_rgb(COLOURS[0]))[0], places(maps, to_rgb(COLOURS[-1]))[0]
    assert len(sandy) == pytest.approx(3 * len(blue), rel=0.02)  # SMAP and map of the dry day, SMAP of the wet one
    assert len(blue) > 25_000
    assert np.median(blue) > np.median(sandy) + 50


@pytest.mark.parametrize("crs", ["EPSG:5070", "EPSG:4326", "EPSG:32611"])
def test_north_is_up_and_east_is_right(tmp_path: Path, crs: str) -> None:
    """A quarter that is wet in the true north-east is so in the picture, wherever the grid's own north points."""
    box = grid(35, 35, 0.001 if crs == "EPSG:4326" else 100.0, crs)
    transformer = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    cols, rows = np.meshgrid(np.arange(35) + 0.5, np.arange(35) + 0.5)
    longitude, latitude = transformer.transform(*(box.affine * (cols, rows)))
    west, south, east, north = outline(box).bounds
    wet = (longitude > (west + east) / 2) & (latitude > (south + north) / 2)
    values = np.where(wet, 0.4, 0.1).astype(np.float32)
    image = drawn(tmp_path / "a.png", [product(tmp_path, values, box, smap=np.full((35, 35), 0.1, np.float32))], box)
    maps = image[: round(image.shape[0] * 0.75)]
    blue, sandy = places(maps, to_rgb(COLOURS[-1])), places(maps, to_rgb(COLOURS[0]))
    left, right, bottom = blue[1].min(), blue[1].max(), blue[0].max()
    below = (sandy[1] > left + 10) & (sandy[1] < right - 10)
    assert below.sum() > 5_000
    assert np.percentile(sandy[0][below], 1) > bottom - 10
    beside = (sandy[0] > np.percentile(blue[0], 30)) & (sandy[0] < np.percentile(blue[0], 70))
    assert (sandy[1][beside] < left + 10).all()
    # on the local grid the border of the quarter runs straight up, to the width of a pixel
    half = round(np.median(blue[0]))
    starts = [blue[1][blue[0] == row].min() for row in range(half, bottom - 15)]
    assert np.ptp(starts) < 1.5 * (right - left) / 17


def test_missing_is_grey_inside_the_outline_and_white_outside(tmp_path: Path) -> None:
    box = grid(60, 60)
    values = np.full((60, 60), 0.2, np.float32)
    plain = drawn(tmp_path / "a.png", [product(tmp_path / "plain", values, box)], box)
    values[20:40] = np.nan
    holed = drawn(tmp_path / "b.png", [product(tmp_path / "holed", values, box)], box)
    share = len(places(holed, GREY)[0]) - len(places(plain, GREY)[0])
    assert share > 5_000
    corner = holed[3:10, 3:10]
    assert (corner == 1).all()


def test_panels_are_white_outside_the_outline(tmp_path: Path) -> None:
    """Without any value the area is grey, and only the area: half of the panel below a diagonal."""
    box = grid(60, 60)
    day = product(tmp_path, np.full((60, 60), np.nan, np.float32), box)
    area = outline(box)
    west, south, east, north = area.bounds
    half = area.intersection(shapely.Polygon([(west, south), (east, south), (east, north)]))
    whole, below = (
        len(places(draw_area(tmp_path / f"{name}.png", [day], one), GREY)[0])
        for name, one in (("whole", area), ("half", half))
    )
    assert 0.3 * whole < below < 0.7 * whole


def test_a_map_without_any_value_is_drawn(tmp_path: Path) -> None:
    box = grid(40, 50)
    nothing = np.full((40, 50), np.nan, np.float32)
    image = drawn(tmp_path / "a.png", [product(tmp_path, nothing, box, smap=nothing)], box)
    assert len(places(image, GREY)[0]) > 25_000


def test_every_panel_of_synthetic_days_is_marked(tmp_path: Path) -> None:
    box = grid(60, 60)
    rng = np.random.default_rng(0)
    days = [
        product(tmp_path, rng.uniform(0.1, 0.3, (60, 60)).astype(np.float32), box, DAY + timedelta(n)) for n in (0, 1)
    ]
    plain = drawn(tmp_path / "a.png", days, box)
    marked = drawn(tmp_path / "b.png", days, box, synthetic=True)
    assert plain.shape == marked.shape
    changed = np.abs(plain - marked).max(2) > 0.02
    changed = changed[: round(0.85 * len(changed))]
    runs = [np.count_nonzero(np.diff(np.flatnonzero(changed.any(axis)), prepend=-1000) > 30) for axis in (0, 1)]
    assert runs == [3, 2]  # three columns of panels, two rows
    assert 0.01 < changed.mean() < 0.15  # legible, and most of the map is untouched


@pytest.mark.parametrize(
    ("shape", "count"), [((1, 1), 1), ((3, 5), 1), ((10, 400), 2), ((400, 10), 2), ((90, 150), 4), ((60, 60), 8)]
)
def test_any_shape_and_number_of_days(tmp_path: Path, shape: tuple[int, int], count: int) -> None:
    box = grid(*shape)
    rng = np.random.default_rng(1)
    days = [
        product(tmp_path, rng.uniform(0.1, 0.3, shape).astype(np.float32), box, DAY + timedelta(n))
        for n in range(count)
    ]
    image = drawn(tmp_path / "a.png", days, box)
    height, width = image.shape[:2]
    assert 450 < width < 1100
    assert 450 < height < 2500
    border = np.concatenate([image[:4].ravel(), image[-4:].ravel(), image[:, :4].ravel(), image[:, -4:].ravel()])
    assert (border == 1).all()  # nothing runs over the edge


def test_the_same_maps_give_the_same_bytes_that_are_ours(tmp_path: Path) -> None:
    box = grid(60, 60)
    days = [product(tmp_path, np.random.default_rng(0).uniform(0.1, 0.3, (60, 60)).astype(np.float32), box)]
    drawn(tmp_path / "a.png", days, box)
    drawn(tmp_path / "b.png", days, box)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert is_ours(tmp_path / "a.png")


def test_the_detail_shows_where_fields_are(tmp_path: Path) -> None:
    """A smooth gradient, however steep, is less worth a look than a checkerboard of small fields."""
    values = np.tile(np.linspace(0.05, 0.45, 600, dtype=np.float32), (500, 1))
    values[300:400, 100:200] += 0.03 * (np.indices((100, 100)) // 5).sum(0) % 0.06
    box = grid(500, 600)
    day = product(tmp_path, values, box)
    crs, area = to_local(outline(box))
    panel = read_panel(day.layers["soil_moisture"], crs, view_of(area.bounds, 100.0))
    found = detail_box(panel)
    assert found is not None
    left, bottom, right, top = found
    assert right - left == pytest.approx(15_000, rel=0.01)
    assert top - bottom == pytest.approx(15_000, rel=0.01)
    x, y = Transformer.from_crs("EPSG:5070", crs, always_xy=True).transform(*(box.affine * (150, 350)))
    assert left < x < right
    assert bottom < y < top


def test_smap_is_drawn_as_its_cells_where_the_layer_has_a_value(tmp_path: Path) -> None:
    """Each pixel shows the value of the cell in which pyproj finds its centre, whatever the layer interpolated."""
    box = grid(200, 300)
    layer = np.full((200, 300), 0.2, np.float32)
    layer[:, :40] = np.nan
    day = product(tmp_path, layer, box, smap=layer)
    crs, area = to_local(outline(box))
    panel = read_panel(day.layers["smap"], crs, view_of(area.bounds, 100.0), 500)
    to_ease = Transformer.from_crs(crs, "EPSG:6933", always_xy=True).transform
    size, (left, _, _, top) = 9008.055210146, panel.box
    x, y = to_ease(left, top)
    transform = Affine(size, 0, x - 1.3 * size, 0, -size, y + 1.2 * size)
    values = np.random.default_rng(0).uniform(0.05, 0.3, (7, 9)).astype(np.float32)
    values[2, 3] = np.nan
    shown = in_cells(panel, Cells(values=values, transform=transform, crs="EPSG:6933"), crs)
    step = (panel.box[2] - left) / panel.values.shape[1]
    down, right = np.indices(panel.values.shape) + 0.5
    col, row = ~transform * to_ease(left + right * step, top - down * step)
    near_edge = (np.abs(col - np.rint(col)) < 0.02) | (np.abs(row - np.rint(row)) < 0.02)
    expected = np.where(np.isnan(panel.values), np.nan, values[row.astype(int), col.astype(int)])
    np.testing.assert_array_equal(shown.values[~near_edge], expected[~near_edge])
    assert len(np.unique(shown.values[np.isfinite(shown.values)])) > 10
    assert shown.mean == panel.mean


@pytest.mark.parametrize("count", [3, 4, 9])
def test_sums_around_pixels_agree_with_scipy(count: int) -> None:
    values = np.random.default_rng(count).uniform(size=(20, 31))
    np.testing.assert_allclose(sums_around(values, count), uniform_filter(values, count) * count**2, rtol=1e-9)


def test_local_metres_are_metres_on_the_ground(tmp_path: Path) -> None:
    box = grid(400, 400)
    crs, _ = to_local(outline(box))
    back = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    (west, east), (south, north) = back.transform([-10_000, 10_000], [5_000, 5_000])
    assert Geod(ellps="WGS84").inv(west, south, east, north)[2] == pytest.approx(20_000, rel=1e-4)


def test_means_are_of_the_maps_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    values = rng.uniform(0.1, 0.3, (90, 80)).astype(np.float32)
    values[:30] = np.nan
    box = grid(90, 80)
    day = product(tmp_path, values, box)
    crs, area = to_local(outline(box))
    panel = read_panel(day.layers["soil_moisture"], crs, view_of(area.bounds, 100.0))
    assert panel.mean == pytest.approx(np.nanmean(values), abs=1e-4)


def test_memory_does_not_grow_with_the_map(tmp_path: Path) -> None:
    peaks = []
    for side in (256, 4096):
        box = grid(side, side)
        day = product(tmp_path / str(side), np.tile(np.float32([[0.2, 0.3]]), (side, side // 2)), box)
        coarse = Cells(
            values=day.cells.values[::64, ::64].copy(), transform=box.affine * Affine.scale(64), crs="EPSG:5070"
        )
        day = replace(day, cells=coarse)
        tracemalloc.start()
        drawn(tmp_path / "a.png", [day], box)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_a_failed_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = grid(20, 20)
    day = product(tmp_path, np.full((20, 20), 0.2, np.float32), box)
    target = tmp_path / "pictures" / "a.png"
    drawn(target, [day], box)
    before = target.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(write.os, "replace", full)
    with pytest.raises(OutputError, match=r"a\.png: No space left on device"):
        drawn(target, [day], box, synthetic=True)
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]


def test_a_foreign_picture_is_not_overwritten(tmp_path: Path) -> None:
    box = grid(20, 20)
    day = product(tmp_path, np.full((20, 20), 0.2, np.float32), box)
    (tmp_path / "holiday.png").write_bytes(b"\x89PNG my holiday")
    with pytest.raises(OutputError, match=r"holiday\.png was not made by mmnet_maps"):
        drawn(tmp_path / "holiday.png", [day], box)
    assert (tmp_path / "holiday.png").read_bytes() == b"\x89PNG my holiday"


def test_a_warning_about_arrays_that_are_warped_is_not_shown() -> None:
    """Threads that draw beside others leave the filters of rasterio in any state; pytest's are not those of a user."""
    warn = 'warnings.warn_explicit("Dataset has no geotransform", UserWarning, "warp.py", 1, module="rasterio.warp")'
    code = f"import warnings, mmnet_maps.product.picture_panels; {warn}"
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)
