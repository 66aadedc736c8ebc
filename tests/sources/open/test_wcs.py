"""Annual NLCD from a Web Coverage Service: classes by area, legends, and faults."""

from __future__ import annotations

import logging
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from fake_open import FakeOpen, Reply, failing
from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import cover
from mmnet_maps.grid.tiles import conus_grid
from mmnet_maps.sources.open.source import OpenSource
from mmnet_maps.sources.open.wcs import BLOCK, NLCD_GRID
from open_routes import Wcs, nlcd_codes
from open_setup import loopback_config, loopback_source

DAY = date(2021, 8, 8)


def grid(size: int = 12, col: int = 0, row: int = 0) -> GeoBox:
    """A window of the target grid around the corner of four blocks of NLCD."""
    edge = NLCD_GRID[7 * BLOCK : 7 * BLOCK + 1, 11 * BLOCK : 11 * BLOCK + 1]
    rows, cols = cover(edge, conus_grid())
    top, left = rows.start - 5 + row, cols.start - 5 + col
    return conus_grid()[top : top + size, left : left + size]


def areas(geobox: GeoBox, year: int) -> NDArray[np.int64]:
    """Area of each code in each pixel, (y, x, code), in squares of 5 m: edges of both grids are lines of theirs."""
    left, top = geobox.affine.c, geobox.affine.f
    height, width = geobox.shape.yx
    x, y = left + (np.arange(width * 20) + 0.5) * 5, top - (np.arange(height * 20) + 0.5) * 5
    # The middle of the 30 m pixel that a square lies in; edges lie 15 m off the multiples of 30.
    middles = [np.floor((axis - 15) / 30) * 30 + 30 for axis in (x, y)]
    codes = nlcd_codes(*middles, year).reshape(height, 20, width, 20).swapaxes(1, 2).reshape(height, width, 400)
    return np.stack([(codes == code).sum(axis=2) for code in range(96)], axis=-1)


def check(found: NDArray[Any], geobox: GeoBox, year: int) -> None:
    area = areas(geobox, year)
    chosen = np.take_along_axis(area, found[..., None].astype(int), axis=-1)[..., 0]
    np.testing.assert_array_equal(chosen[found > 0], area.max(axis=-1)[found > 0])
    np.testing.assert_array_equal(found == 0, area.max(axis=-1) == 0)
    assert (found > 0).mean() > 0.9


def test_classes_are_those_of_the_largest_area_across_blocks(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Wcs())
    source = loopback_source(server, tmp_path, ["landcover"])
    geobox = grid()
    cost = source.cost("landcover", geobox, [DAY])
    check(source.read("landcover", geobox, [DAY])["landcover"][0], geobox, 2021)
    assert cost.requests == len(server.requests("wcs")) == 4
    sent = sum(size for _, _, size in server.log)
    assert abs(cost.bytes / sent - 1) < 0.05


def test_the_nearest_year_is_used(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Wcs())
    source = loopback_source(server, tmp_path, ["landcover"])
    geobox = grid(4, col=-8, row=-8)
    for day, year in ((date(2018, 12, 1), 2018), (date(2019, 1, 10), 2019), (date(2026, 7, 1), 2024)):
        check(source.read("landcover", geobox, [day])["landcover"][0], geobox, year)
    assert sorted({one.query["time"][:4] for one in server.requests("wcs")}) == ["2018", "2019", "2024"]


def test_blocks_are_shared_by_windows_and_runs(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Wcs())
    whole = loopback_source(server, tmp_path, ["landcover"]).read("landcover", grid(), [DAY])["landcover"][0]
    server.log.clear()
    part = loopback_source(server, tmp_path, ["landcover"]).read("landcover", grid(5, 3, 4), [DAY])["landcover"][0]
    np.testing.assert_array_equal(part, whole[4:9, 3:8])
    assert not server.log


def lcmap(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The legend of LCMAP: 1 developed, 2 cropland, 3 grass and shrub, 4 tree cover, 5 water, 6 wetland, 8 barren."""
    legend = np.full(256, 0, np.uint8)
    for first, of_lcmap in ((11, 5), (21, 1), (31, 8), (41, 4), (42, 4), (52, 3), (71, 3), (81, 2), (82, 2), (90, 6)):
        legend[first] = of_lcmap
    return legend[codes]


def test_another_legend_is_refused(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Wcs(legend=lcmap))
    source = loopback_source(server, tmp_path, ["landcover"])
    with pytest.raises(InputError, match="no landcover code of .* is known .*; map other codes with 'codes'"):
        source.read("landcover", grid(), [DAY])


def test_another_legend_is_mapped_by_its_codes(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Wcs(legend=lcmap))
    config = loopback_config(server, ["landcover"])
    config["products"]["landcover"] |= {"codes": {1: 22, 2: 82, 3: 71, 4: 42, 5: 11, 6: 90, 8: 31}, "product": "LCMAP"}
    path = tmp_path / "lcmap.yaml"
    path.write_text(yaml.safe_dump(config))
    source = OpenSource(path)
    assert source.variables()["landcover"].product == "LCMAP"
    found = source.read("landcover", grid(), [DAY])["landcover"][0]
    assert set(np.unique(found)) <= {0, 11, 22, 31, 42, 71, 82, 90}
    assert (found == 82).any()


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(body=b"<ServiceExceptionReport><ServiceException>Out of memory</S", kind="text/xml"), "Out of memory"),
        (Reply(body=b"II*\x00" + bytes(300)), "broken"),
        (Reply(body=b""), "no GeoTIFF came"),
        (Reply(body=b"Access denied", status=403), "refused \\(403"),
    ],
)
def test_an_answer_that_is_no_coverage_is_named(server: FakeOpen, tmp_path: Path, reply: Reply, text: str) -> None:
    server.serve(Wcs())
    server.faults.append(failing("wcs", reply))
    source = loopback_source(server, tmp_path, ["landcover"], retries=1)
    with pytest.raises(InputError, match=text):
        source.read("landcover", grid(4, -8, -8), [DAY])
    server.faults.clear()
    source = loopback_source(server, tmp_path, ["landcover"])
    check(source.read("landcover", grid(4, -8, -8), [DAY])["landcover"][0], grid(4, -8, -8), 2021)


def test_a_coverage_elsewhere_is_refused(server: FakeOpen, tmp_path: Path) -> None:
    from mmnet_maps.sources.open.wcs import block_tiff
    from open_routes import geotiff

    block = NLCD_GRID[:4, :4]
    moved = geotiff(np.full((4, 4), 82, np.uint8), block.affine @ block.affine.translation(1, 0), "EPSG:5070")
    with pytest.raises(InputError, match=r"4 × 4 pixels from -2\.41556e\+06"):
        block_tiff(moved, block, "usgs-nlcd")


def test_missing_land_cover_of_a_release_is_no_error(
    server: FakeOpen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.serve(Wcs(legend=lambda codes: np.full_like(codes, 250)))
    source = loopback_source(server, tmp_path, ["landcover"])
    with caplog.at_level(logging.WARNING):
        assert not source.read("landcover", grid(4, -8, -8), [DAY])["landcover"].any()
        source.report()
    assert not caplog.messages


@pytest.mark.live
def test_the_service_of_usgs_itself() -> None:
    """One block of land cover of 2021 from USGS."""
    found = OpenSource().read("landcover", grid(20), [DAY])
    print({int(code): int(count) for code, count in zip(*np.unique(found["landcover"], return_counts=True))})
    assert found["landcover"].any()
