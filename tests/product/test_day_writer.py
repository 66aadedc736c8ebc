"""Files of a day: whole, ours, verified, reproducible; after any fault the earlier files are unchanged."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import rasterio.shutil
import rioxarray
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Transformer
from rio_cogeo.cogeo import cog_validate

from day_files import DAY, NAMES, content, ensemble, grid, packed, png, produce, writer
from mmnet_maps.errors import OutputError
from mmnet_maps.files import write_whole
from mmnet_maps.product import cog
from mmnet_maps.product import day_writer as write
from mmnet_maps.product.day_writer import DayProduct, DayWriter, check_target, completed, remove_day_leftovers
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.quality import QUALITY_BITS


def read(path: Path) -> NDArray[np.uint16]:
    with rasterio.open(path) as data:
        values: NDArray[np.uint16] = data.read(1)
    return values


def test_names_and_values(tmp_path: Path) -> None:
    values = packed(40, 60)
    product = produce(tmp_path, values)
    folder = tmp_path / "20210808"
    assert sorted(path.name for path in folder.iterdir()) == [
        "grant_20210808.json",
        "grant_20210808.png",
        "grant_20210808_quality.tif",
        "grant_20210808_smap.tif",
        "grant_20210808_soil_moisture.tif",
    ]
    assert product == DayProduct(
        day=DAY,
        folder=folder,
        layers={name: folder / f"grant_20210808_{name}.tif" for name in NAMES},
        item=folder / "grant_20210808.json",
        picture=folder / "grant_20210808.png",
    )
    for name in NAMES:
        np.testing.assert_array_equal(read(product.layers[name]), values[name])


def test_synthetic_maps_have_names_of_their_own(tmp_path: Path) -> None:
    real = produce(tmp_path, packed(3, 4))
    made_up = produce(tmp_path, packed(3, 4, seed=1), synthetic=True, picture=None)
    assert made_up.item.name == "grant_20210808_synthetic.json"
    assert made_up.layers["smap"].name == "grant_20210808_synthetic_smap.tif"
    assert made_up.picture is None
    assert real.item.exists()


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (511, 513), (1200, 30), (700, 1300), (1030, 2060)])
def test_every_layer_is_a_strict_cog_that_other_software_understands(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = packed(*shape)
    product = produce(tmp_path, values)
    for name, path in product.layers.items():
        assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
        layer = LAYERS[name]
        with rasterio.open(path) as data:
            assert data.crs.to_epsg() == 5070
            assert data.transform == grid(*shape).affine
            assert (data.dtypes, data.nodata) == (("uint16",), layer.nodata)
            assert (data.scales, data.offsets, data.units) == ((layer.scale,), (0.0,), (layer.units,))
            assert data.descriptions == (layer.long_name,)
            assert data.tags()["model"] == "net"
            assert data.tags()["MMNET_FINGERPRINT"] == "f00d"
            assert data.compression.value == "DEFLATE"
    opened = rioxarray.open_rasterio(product.layers["soil_moisture"], mask_and_scale=True)
    expected = np.where(values["soil_moisture"] == 65535, np.nan, values["soil_moisture"] * 0.0001)
    np.testing.assert_allclose(opened.to_numpy()[0], expected, atol=1e-7)


@pytest.mark.parametrize("shape", [(600, 512), (2048, 1024)])
def test_a_width_of_one_block_is_a_cog_too(tmp_path: Path, shape: tuple[int, int]) -> None:
    """rio-cogeo takes such a file, or such an overview, for one that is not tiled."""
    values = packed(*shape)
    for name, path in produce(tmp_path, values).layers.items():
        with rasterio.open(path) as data:
            assert data.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert data.block_shapes == [(512, 512)]
            np.testing.assert_array_equal(data.read(1), values[name])


@pytest.mark.parametrize("shape", [(1, 1), (511, 513), (700, 1024), (1024, 1024)])
def test_a_file_collected_in_memory_equals_one_collected_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    values = packed(*shape)
    half = shape[0] // 2
    made = {}
    for place, side in {"memory": 1024, "disk": 0}.items():
        monkeypatch.setattr(cog, "_IN_MEMORY", side)
        with writer(tmp_path / place, grid(*shape)) as at:  # pixels without a window in the upper half
            at.write(slice(half, shape[0]), slice(0, shape[1]), {name: one[half:] for name, one in values.items()})
            assert bool([*tmp_path.rglob("*.plain.tif")]) == (place == "disk")
            at.finish(None)
        made[place] = content(tmp_path / place)
    assert made["memory"] == made["disk"]


def test_the_file_names_its_quality_bits(tmp_path: Path) -> None:
    with rasterio.open(produce(tmp_path, packed(4, 4)).layers["quality"]) as data:
        tags = data.tags(1)
    found = dict(zip(tags["flag_meanings"].split(), map(int, tags["flag_masks"].split()), strict=True))
    assert found == {name: 2**bit for name, bit in QUALITY_BITS.items()}


def shares(size: int, parts: int) -> NDArray[np.float64]:
    """Return the share (part, pixel) of each pixel in each of the parts of equal length."""
    edges, pixels = np.linspace(0, size, parts + 1), np.arange(size)
    return np.maximum(0, np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels))


@pytest.mark.parametrize("shape", [(1024, 1024), (2048, 1536), (1537, 2051), (4100, 600)])
def test_overviews_are_means_of_the_pixels_at_every_level(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = packed(*shape, names=("soil_moisture",))
    packed_values = values["soil_moisture"]
    packed_values[np.random.default_rng(1).random(shape) < 0.4] = 65535
    packed_values[:4, :4] = 1000
    packed_values[2:4, 2:4] = [[65535, 65535], [65535, 4000]]
    path = produce(tmp_path, values, None).layers["soil_moisture"]
    known = packed_values != 65535
    with rasterio.open(path) as data:
        factors = data.overviews(1)
    assert len(factors) == max(1, int(np.ceil(np.log2(max(shape) / 512))))
    for level in range(len(factors)):
        with rasterio.open(path, overview_level=level) as data:
            found = data.read(1)
        rows, cols = (shares(size, parts) for size, parts in zip(shape, found.shape))
        weight = rows @ known @ cols.T
        with np.errstate(invalid="ignore"):
            mean = rows @ (packed_values * known) @ cols.T / weight
        np.testing.assert_array_equal(found == 65535, weight == 0)
        assert np.abs(found - mean)[weight > 0].max() <= 0.5 + 1e-6
        if found.shape == (512, 384):
            assert found[0, 0] == 1231


def test_overviews_of_flags_are_those_of_the_upper_left_pixel(tmp_path: Path) -> None:
    values = packed(2048, 1536)
    path = produce(tmp_path, values).layers["quality"]
    for level, factor in enumerate((2, 4)):
        with rasterio.open(path, overview_level=level) as data:
            np.testing.assert_array_equal(data.read(1), values["quality"][::factor, ::factor])


@pytest.mark.filterwarnings("ignore:statistics")  # stats(), which rasterio advises, ignores what the file states
@pytest.mark.parametrize("shape", [(40, 60), (1024, 1024), (1100, 700)])
def test_statistics_in_the_file_are_those_of_its_pixels(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = packed(*shape)
    product = produce(tmp_path, values)
    for name in ("soil_moisture", "smap"):
        known = values[name][values[name] != 65535]
        with rasterio.open(product.layers[name]) as data:
            assert data.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            tags = {key: float(text) for key, text in data.tags(1).items() if key.startswith("STATISTICS_")}
            kept = data.statistics(1)
        expected = {
            "STATISTICS_MINIMUM": known.min(),
            "STATISTICS_MAXIMUM": known.max(),
            "STATISTICS_MEAN": known.mean(dtype=np.float64),
            "STATISTICS_STDDEV": known.std(dtype=np.float64),
            "STATISTICS_VALID_PERCENT": 100 * known.size / values[name].size,
        }
        assert tags == pytest.approx(expected, rel=1e-12)
        assert (kept.min, kept.max, kept.mean, kept.std) == pytest.approx([*expected.values()][:4], rel=1e-12)
    with rasterio.open(product.layers["quality"]) as data:  # means of flags mean nothing
        assert not any(key.startswith("STATISTICS_") for key in data.tags(1))
    assert not [*tmp_path.rglob("*.aux.xml")]


def test_a_map_without_a_value_has_no_statistics(tmp_path: Path) -> None:
    path = produce(tmp_path, dict.fromkeys(NAMES, np.full((5, 5), 65535, np.uint16))).layers["smap"]
    with rasterio.open(path) as data:
        tags = {key: text for key, text in data.tags(1).items() if key.startswith("STATISTICS_")}
    assert tags == {"STATISTICS_VALID_PERCENT": "0.0"}


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    step=st.integers(7, 50),
    order=st.randoms(use_true_random=False),
    skip=st.floats(0, 1),
)
def test_windows_in_any_order_equal_the_whole(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, step: int, order: Any, skip: float
) -> None:
    out = tmp_path_factory.mktemp("maps")
    values = packed(height, width)
    windows = [
        (slice(top, min(top + step, height)), slice(left, min(left + step, width)))
        for top in range(0, height, step)
        for left in range(0, width, step)
    ]
    order.shuffle(windows)
    kept = windows[int(skip * len(windows)) :]
    expected = {name: np.full((height, width), 1 if name == "quality" else 65535, np.uint16) for name in values}
    with writer(out, grid(height, width)) as at:
        for rows, cols in kept:
            at.write(rows, cols, {name: block[rows, cols] for name, block in values.items()})
            for name, block in expected.items():
                block[rows, cols] = values[name][rows, cols]
        product = at.finish(None)
    for name, block in expected.items():
        np.testing.assert_array_equal(read(product.layers[name]), block)


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    values = packed(600, 700)
    produce(tmp_path / "whole", values)
    with writer(tmp_path / "parts", grid(600, 700)) as at:
        for left in (350, 0):
            cols = slice(left, left + 350)
            at.write(slice(0, 600), cols, {name: block[:, cols] for name, block in values.items()})
        at.finish(png)
    assert content(tmp_path / "whole") == content(tmp_path / "parts")


def test_item(tmp_path: Path) -> None:
    product = produce(tmp_path, packed(200, 300))
    item = pystac.Item.from_file(str(product.item))
    assert item.id == "grant_20210808"
    assert item.to_dict(include_self_link=False, transform_hrefs=False) == json.loads(product.item.read_text())
    assert (item.properties["datetime"], item.properties["start_datetime"], item.properties["end_datetime"]) == (
        "2021-08-08T00:00:00Z",
        "2021-08-08T00:00:00Z",
        "2021-08-08T23:59:59Z",
    )
    assert item.properties["proj:code"] == "EPSG:5070"
    assert item.properties["proj:shape"] == [200, 300]
    assert item.properties["proj:transform"] == [100, 0, -1_870_000, 0, -100, 2_930_000]
    assert item.properties["mmnet:licences"] == ["CC BY-NC 4.0"]
    assert (item.properties["mmnet:fingerprint"], item.properties["version"]) == ("f00d", "1")
    for name, path in product.layers.items():
        asset = item.assets[name]
        assert Path(str(asset.get_absolute_href())).samefile(path)
        assert asset.extra_fields["file:size"] == path.stat().st_size
        (band,) = asset.to_dict()["bands"]
        assert (band.get("nodata"), band["raster:scale"], band["unit"]) == (
            LAYERS[name].nodata,
            LAYERS[name].scale,
            LAYERS[name].units,
        )


def test_footprint_holds_every_corner_and_edge(tmp_path: Path) -> None:
    box = grid(200, 300)
    item = json.loads(produce(tmp_path, packed(200, 300)).item.read_text())
    across = np.linspace(0, 1, 21)
    left, bottom, right, top = box.boundingbox.bbox
    x = np.r_[left + (right - left) * across, left + (right - left) * across]
    y = np.r_[np.full(21, bottom), np.full(21, top)]
    longitude, latitude = Transformer.from_crs(5070, 4326, always_xy=True).transform(x, y)
    west, south, east, north = item["bbox"]
    assert west - 1e-5 < longitude.min() < longitude.max() < east + 1e-5
    assert south - 1e-5 < latitude.min() < latitude.max() < north + 1e-5
    ring = np.array(item["geometry"]["coordinates"][0])
    assert tuple(ring[0]) == tuple(ring[-1])
    np.testing.assert_allclose([*ring.min(0), *ring.max(0)], item["bbox"], atol=1e-9)


def test_finished_days_are_found_and_others_are_not(tmp_path: Path) -> None:
    product = produce(tmp_path, packed(5, 5))
    assert completed(tmp_path, "grant", DAY, False, "f00d") == product
    assert completed(tmp_path, "grant", DAY, False, "beef") is None
    assert completed(tmp_path, "grant", DAY, True, "f00d") is None
    assert completed(tmp_path, "grant", date(2021, 8, 9), False, "f00d") is None


@pytest.mark.parametrize("damage", ["cut", "gone", "picture gone", "other revision", "item cut"])
def test_a_damaged_product_is_not_finished(tmp_path: Path, damage: str) -> None:
    product = produce(tmp_path, packed(5, 5))
    layer = product.layers["smap"]
    if damage == "cut":
        layer.write_bytes(layer.read_bytes()[:-1])
    elif damage == "gone":
        layer.unlink()
    elif damage == "picture gone":
        product.picture.unlink()  # type: ignore[union-attr]
    elif damage == "other revision":  # the same size, another fingerprint
        other = produce(tmp_path / "other", packed(5, 5), fingerprint="beef")
        assert other.layers["smap"].stat().st_size == layer.stat().st_size
        shutil.copy(other.layers["smap"], layer)
    else:
        product.item.write_text(product.item.read_text()[:-10])
    assert completed(tmp_path, "grant", DAY, False, "f00d") is None


def test_a_revision_replaces_all_files_and_counts(tmp_path: Path) -> None:
    produce(tmp_path, packed(5, 5))
    for version in ("2", "3"):
        values = packed(5, 5, seed=int(version), names=("soil_moisture", "quality"))
        product = produce(tmp_path, values, picture=None, fingerprint=version)
        item = json.loads(product.item.read_text())
        assert item["properties"]["version"] == version
        np.testing.assert_array_equal(read(product.layers["quality"]), values["quality"])
        assert sorted(path.name for path in product.folder.iterdir()) == sorted(  # none of the old revision
            path.name for path in (product.item, *product.layers.values())
        )
        assert completed(tmp_path, "grant", DAY, False, version) == product


class Stop(BaseException):
    """Stands for Ctrl-C, kill and power cuts at a chosen call."""


def test_an_error_of_the_caller_leaves_nothing_or_the_old(tmp_path: Path) -> None:
    values = packed(5, 5)

    def fail() -> None:
        with writer(tmp_path, grid(5, 5), fingerprint="new", members=2) as at:
            at.write(slice(0, 5), slice(0, 5), values, ensemble(2, 5, 5))
            raise Stop

    with pytest.raises(Stop):
        fail()
    assert content(tmp_path) == {}
    produce(tmp_path, values)
    before = content(tmp_path)
    with pytest.raises(Stop):
        fail()
    assert content(tmp_path) == before


@pytest.mark.parametrize("fault", [Stop(), OSError(errno.EIO, os.strerror(errno.EIO))], ids=["stop", "disk"])
@pytest.mark.parametrize("again", [False, True], ids=["first", "revision"])
@pytest.mark.parametrize("members", [0, 2], ids=["layers", "members"])
def test_an_interrupted_exchange_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, again: bool, members: int
) -> None:
    """Whichever rename fails, the folder is as before."""
    replace = os.replace
    if again:
        earlier = produce(tmp_path, packed(5, 5), members=members)
        for path in (*earlier.layers.values(), earlier.folder / "grant_20210808.png"):
            path.with_name(f"{path.name}.aux.xml").write_text("statistics of the earlier revision")
    before = content(tmp_path)
    for stop in range(1, 40):
        calls = 0

        def faulty(source: Path, target: Path) -> None:
            nonlocal calls
            calls += 1
            if calls == stop:  # noqa: B023
                raise fault
            replace(source, target)

        monkeypatch.setattr(write.os, "replace", faulty)
        try:
            produce(tmp_path, packed(5, 5, seed=1), members=members, fingerprint="new")
        except (Stop, OutputError):
            assert content(tmp_path) == before
        else:
            break
    assert stop > (9 if again else 5) + (members > 0) * (7 if again else 6)
    assert completed(tmp_path, "grant", DAY, False, "new")
    assert [*tmp_path.rglob("*.aux.xml")] == []


@pytest.mark.filterwarnings("ignore:statistics")  # stats(), which rasterio advises, keeps nothing
def test_statistics_and_overviews_of_a_replaced_map_are_removed(tmp_path: Path) -> None:
    """GDAL and QGIS keep them beside the file, and would show the range of the old map."""
    dry, wet = (dict.fromkeys(NAMES, np.full((5, 5), value, np.uint16)) for value in (1000, 3000))
    path = produce(tmp_path, dry).layers["soil_moisture"]

    def mean() -> float:
        with rasterio.open(path) as data:
            return float(data.statistics(1, approx=False).mean)

    sidecars = (".aux.xml", ".ovr", ".msk", ".msk.ovr")
    mine = path.with_suffix(".qml"), path.with_name(f"{path.name}.bak")
    for other in (*mine, *(path.with_name(path.name + end) for end in sidecars)):
        other.write_bytes(b"kept by a user or by GDAL")
    produce(tmp_path, wet, fingerprint="new")
    assert {one.name for one in path.parent.glob(f"{path.stem}*")} == {path.name, *(one.name for one in mine)}
    assert mean() == 3000


def test_the_map_of_another_area_is_not_replaced(tmp_path: Path) -> None:
    first = produce(tmp_path, packed(3, 4), properties={"mmnet:area": "north"})
    before = content(tmp_path)
    with pytest.raises(OutputError, match=r"grant_20210808.json is the map of another area .*give another --out") as at:
        produce(tmp_path, packed(3, 4, seed=1), properties={"mmnet:area": "south"}, fingerprint="new")
    assert json.loads(first.item.read_text())["bbox"][0] == pytest.approx(
        float(str(at.value).split("(")[1].split(",")[0]), abs=1e-4
    )
    assert content(tmp_path) == before
    produce(tmp_path, packed(3, 4, seed=1), properties={"mmnet:area": "north"}, fingerprint="new")
    first.item.unlink()
    produce(tmp_path, packed(3, 4, seed=1), properties={"mmnet:area": "south"}, fingerprint="new")


@pytest.mark.parametrize("again", [False, True], ids=["first", "revision"])
def test_a_kill_at_any_step_is_mended_by_the_next_run(tmp_path: Path, again: bool) -> None:
    """After SIGKILL at a rename no product counts as finished, and the next run gives that of an undisturbed one."""
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import day_files\n"
        "replace, calls = os.replace, 0\n"
        "def faulty(source, target):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls == stop:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(source, target)\n"
        "os.replace = faulty\n"
        "for stop in map(int, sys.argv[2:]):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        day_files.produce(Path(sys.argv[1]) / str(stop), day_files.packed(5, 5, seed=1), fingerprint='new')\n"
        "        os._exit(0)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL\n"
    )
    expected = tmp_path / "expected"
    if again:
        produce(expected, packed(5, 5))
    produce(expected, packed(5, 5, seed=1), fingerprint="new")
    outs = {stop: tmp_path / str(stop) for stop in ((4, 7) if again else (3,))}
    for out in outs.values():
        if again:
            produce(out, packed(5, 5))
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), *map(str, outs)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    for out in outs.values():
        assert completed(out, "grant", DAY, False, "new") is None
        produce(out, packed(5, 5, seed=1), fingerprint="new")
        assert content(out) == content(expected)


def test_the_staging_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    values = packed(5, 5)
    with writer(tmp_path, grid(5, 5)) as first:
        first.write(slice(0, 5), slice(0, 5), values)
        produce(tmp_path, packed(5, 5, seed=1), fingerprint="other")
        first.finish(None)
    assert completed(tmp_path, "grant", DAY, False, "f00d")


@pytest.mark.parametrize("half_gone", [False, True], ids=["just made", "half removed"])
def test_a_staging_folder_without_a_lock_is_removed(tmp_path: Path, half_gone: bool) -> None:
    """A process may be killed between creating its folder and locking it, or while removing it."""
    product = produce(tmp_path, packed(5, 5))
    before = content(tmp_path)
    work = product.folder / ".grant_20210808.x1.partial"
    work.mkdir()
    if half_gone:
        (work / "old").mkdir()
        (work / "old" / "grant_20210808_quality.tif").write_bytes(b"II")
    remove_day_leftovers(tmp_path, "grant", DAY, False)
    assert not work.exists()
    assert content(tmp_path) == before


def test_a_new_staging_folder_that_is_mistaken_for_a_leftover_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may clean up between the creation of a folder and its lock."""
    made: list[str] = []
    mkdtemp = tempfile.mkdtemp

    def swept(**options: Any) -> str:
        made.append(mkdtemp(**options))
        if len(made) < 3:
            remove_day_leftovers(tmp_path, "grant", DAY, False)
            assert not Path(made[-1]).exists()
        return made[-1]

    monkeypatch.setattr(write.tempfile, "mkdtemp", swept)
    produce(tmp_path, packed(5, 5))
    assert len(made) == 3
    assert completed(tmp_path, "grant", DAY, False, "f00d")
    assert not any(Path(one).exists() for one in made)


@pytest.mark.parametrize("call", ["rasterio.shutil.copy", "picture", "CogWriter.write"])
def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    produce(tmp_path, packed(5, 5))
    before = content(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "rasterio.shutil.copy":
        monkeypatch.setattr(cog.rasterio.shutil, "copy", full)
    elif call == "CogWriter.write":
        monkeypatch.setattr(cog.CogWriter, "write", full)
    with pytest.raises(OutputError, match=r"grant_20210808: No space left.*earlier product.*unchanged") as error:
        produce(tmp_path, packed(5, 5, seed=1), picture=full if call == "picture" else png, fingerprint="new")
    assert "\n" not in str(error.value)
    assert content(tmp_path) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True)
    if not done or done.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("side", [1100, 1000])
def test_a_disk_that_is_really_full(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], side: int
) -> None:
    """GDAL loses the error number, at a size where the plain file fails and at one where the COG fails."""
    first = produce(small_disk, packed(5, 5))
    before = content(small_disk)
    monkeypatch.setattr(DayWriter, "_check_space", lambda self: None)
    with pytest.raises(OutputError, match="No space left on device"):
        produce(small_disk, packed(side, side, names=("soil_moisture", "smap")), fingerprint="new")
    assert content(small_disk) == before
    assert completed(small_disk, "grant", DAY, False, "f00d") == first
    assert set(capfd.readouterr().err.splitlines()) <= {  # libtiff prints this itself and cannot be silenced
        "_tiffWriteProc: No space left on device.",
        "_tiffSeekProc: No space left on device.",
    }


def test_too_little_space_is_reported_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(write.shutil, "disk_usage", lambda _: usage._replace(free=5_000_000))
    with pytest.raises(OutputError, match="5 MB free, 6 MB needed"), writer(tmp_path, grid(1000, 1000)):
        pytest.fail("entered")
    assert content(tmp_path) == {}


def test_a_write_that_does_not_read_back_is_never_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = rasterio.shutil.copy

    def flip(source: Any, target: Path, **options: Any) -> None:
        source.write(np.array([[12345]], np.uint16), 1, window=rasterio.windows.Window(2, 3, 1, 1))
        copy(source, target, **options)

    monkeypatch.setattr(cog.rasterio.shutil, "copy", flip)
    with pytest.raises(OutputError, match="did not read back"):
        produce(tmp_path, packed(5, 5))
    assert content(tmp_path) == {}


@pytest.mark.parametrize("options", [{"driver": "GTiff", "predictor": 1}, {"blocksize": 256}, {"overviews": "NONE"}])
def test_another_file_than_the_cog_is_never_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    copy = rasterio.shutil.copy
    monkeypatch.setattr(cog.rasterio.shutil, "copy", lambda *paths, **given: copy(*paths, **given | options))
    with pytest.raises(OutputError, match="is not a COG"):
        produce(tmp_path, packed(520, 5))
    assert content(tmp_path) == {}


def test_a_value_where_nothing_was_written_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = rasterio.shutil.copy

    def spill(source: Any, target: Path, **options: Any) -> None:
        source.write(np.array([[7]], np.uint16), 1, window=rasterio.windows.Window(4, 4, 1, 1))
        copy(source, target, **options)

    monkeypatch.setattr(cog.rasterio.shutil, "copy", spill)
    values = {name: block[:2] for name, block in packed(5, 5).items()}
    with writer(tmp_path, grid(5, 5)) as at:
        at.write(slice(0, 2), slice(0, 5), values)
        with pytest.raises(OutputError, match="did not read back"):
            at.finish(None)


def test_windows_must_not_overlap(tmp_path: Path) -> None:
    values = {name: block[:3] for name, block in packed(5, 5).items()}
    with writer(tmp_path, grid(5, 5)) as at:
        at.write(slice(0, 3), slice(0, 5), values)
        with pytest.raises(AssertionError, match="overlaps"):
            at.write(slice(2, 5), slice(0, 5), values)


@pytest.mark.parametrize("suffix", ["_smap.tif", ".json", ".png"])
@pytest.mark.parametrize("kind", ["text", "raster or item of others", "folder", "empty"])
def test_foreign_files_are_never_overwritten(tmp_path: Path, suffix: str, kind: str) -> None:
    foreign = tmp_path / "20210808" / f"grant_20210808{suffix}"
    foreign.parent.mkdir()
    if kind == "folder":
        foreign.mkdir()
    elif kind != "raster or item of others":
        foreign.write_bytes(b"my thesis" if kind == "text" else b"")
    elif suffix == ".json":
        foreign.write_text('{"type": "Feature", "properties": null}')
    else:
        driver = {".png": "PNG"}.get(suffix, "GTiff")
        with rasterio.open(
            foreign, "w", driver=driver, width=4, height=4, count=1, dtype="uint8", transform=rasterio.Affine.scale(2)
        ) as data:
            data.write(np.zeros((1, 4, 4), np.uint8))
    before = content(tmp_path)
    with pytest.raises(OutputError, match=r"was not made by mmnet_maps.*another output"):
        check_target(tmp_path, "grant", DAY, False, NAMES)
    with pytest.raises(OutputError, match="was not made by mmnet_maps"), writer(tmp_path, grid(5, 5)):
        pytest.fail("entered")
    assert content(tmp_path) == before
    check_target(tmp_path, "other", DAY, False, NAMES)


def test_a_foreign_file_that_appears_while_computing_is_not_overwritten(tmp_path: Path) -> None:
    with writer(tmp_path, grid(5, 5)) as at:
        at.write(slice(0, 5), slice(0, 5), packed(5, 5))
        foreign = tmp_path / "20210808" / "grant_20210808_smap.tif"
        foreign.write_text("mine")
        with pytest.raises(OutputError, match="was not made by mmnet_maps"):
            at.finish(None)
    assert content(tmp_path) == {"20210808/grant_20210808_smap.tif": b"mine"}


def test_impossible_targets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        check_target(tmp_path / "file" / "maps", "grant", DAY, False, NAMES)
    with pytest.raises(OutputError, match="File name too long"), writer(tmp_path, grid(5, 5), name="n" * 300):
        pytest.fail("entered")
    for name in ("", "../up", "a/b", "a\\b", ".hidden"):
        with pytest.raises(OutputError, match="cannot be part of a file name"):
            check_target(tmp_path, name, DAY, False, NAMES)
    check_target(tmp_path / "not" / "yet", "grant", DAY, False, NAMES)
    assert content(tmp_path) == {"file": b""}
    assert not (tmp_path / "not").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that nobody can write to, /proc")
def test_an_unwritable_folder_is_reported_before_anything_is_computed() -> None:
    with pytest.raises(OutputError, match=r"cannot write /proc/self.*nothing was computed"):
        check_target(Path("/proc/self/maps_of_mine"), "grant", DAY, False, NAMES)


def test_a_folder_in_which_no_file_can_be_created_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In /proc, for example, a new file is not found."""
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name.endswith(".partial"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OutputError, match="what was there before is unchanged"):
        write_whole(tmp_path / "a.txt", "a")


def test_write_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "report.txt"
    write_whole(path, "m³/m³\n")
    assert path.read_bytes() == "m³/m³\n".encode()
    write_whole(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    os.utime(path, ns=(1, 1))
    write_whole(path, b"\x00\x01")
    assert path.stat().st_mtime_ns == 1, "an identical file is left alone"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(write.os, "fsync", full)
    with pytest.raises(OutputError, match=r"report\.txt: No space left on device; what was there before is unchanged"):
        write_whole(path, "half")
    assert content(tmp_path) == {"new/report.txt": b"\x00\x01"}
    assert [one.name for one in path.parent.iterdir()] == ["report.txt"]


@pytest.mark.parametrize("again", [False, True], ids=["new", "the same"])
def test_leftovers_of_a_killed_writer_are_removed_by_the_next(tmp_path: Path, again: bool) -> None:
    path = tmp_path / "report [1].txt"
    write_whole(path, "old")
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom mmnet_maps.files import write_whole\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nwrite_whole(Path(sys.argv[1]), 'new')\n"
    )
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    write_whole(path, "old" if again else "other")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_small_files_of_living_processes_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, replace = tmp_path / "report.txt", os.replace

    def meanwhile(source: Path, target: Path) -> None:
        monkeypatch.setattr(write.os, "replace", replace)
        write_whole(path, "first")
        replace(source, target)

    monkeypatch.setattr(write.os, "replace", meanwhile)
    write_whole(path, "second")
    assert path.read_text() == "second"


def test_files_may_be_read_by_others(tmp_path: Path) -> None:
    """No file keeps the restrictive permissions of a temporary one."""
    plain = tmp_path / "plain"
    plain.write_text("")
    product = produce(tmp_path, packed(5, 5))
    for path in (product.item, *product.layers.values()):
        assert path.stat().st_mode == plain.stat().st_mode
    assert time.time() - product.item.stat().st_mtime < 600
