"""The Zarr store of a run: written by several processes, whole after any kill, reproducible, read by other software."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr.storage
from numpy.typing import NDArray

from cf_checker import faults
from mmnet_maps.errors import OutputError
from mmnet_maps.grid.tiles import Tile, grid_of_tiles, tiles
from mmnet_maps.product.layers import LAYERS as PHYSICAL
from mmnet_maps.product.layers import attributes
from mmnet_maps.product.zarr_store import ISSUE, RunStore, create_store

DAYS = (date(2021, 8, 8), date(2021, 8, 10), date(2021, 8, 11))
LAYERS = ("soil_moisture", "quality", "smap")
GRID, TILES = grid_of_tiles(["h06v03", "h07v03"])
REGIONS = tuple((tile, day) for day in DAYS for tile in TILES)
TAGS = {"model": "net", "inputs": {"smap": "SPL3SMP_E"}, "synthetic": True, "software": "mmnet_maps", "reference": "X"}


def create(path: Path, **changes: Any) -> RunStore:
    options: dict[str, Any] = {"grid": GRID, "days": DAYS, "layers": LAYERS, "tags": TAGS}
    create_store(path, **options | changes)
    return RunStore(path)


def layers_of(tile: Tile, day: date) -> dict[str, NDArray[np.uint16]]:
    """Return packed values unique to a region; one region holds fill values alone, one in part."""
    number = REGIONS.index((tile, day))
    moisture = np.linspace(0, 5000, 1 << 20).astype(np.uint16).reshape(1024, 1024) + np.uint16(5000 * number)
    quality = np.full((1024, 1024), number, np.uint16)
    if number == 3:
        moisture[:], quality[:] = 65535, 1
    elif number == 4:
        moisture[:512], quality[:300] = 65535, 1
    return {"soil_moisture": moisture, "quality": quality, "smap": moisture.T}  # the last one not contiguous


def fingerprint_of(tile: Tile, day: date) -> str:
    return f"{REGIONS.index((tile, day)) + 1:02x}" * 32


def write(path: Path, numbers: Iterable[int]) -> None:
    """Write the missing regions, as one process of a batch does."""
    store = RunStore(path)
    for tile, day in (REGIONS[number] for number in numbers):
        if not store.is_current(tile, day, fingerprint_of(tile, day)):
            store.write(tile, day, layers_of(tile, day), fingerprint_of(tile, day))


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of all regions, written by one process from the last to the first."""
    path = tmp_path_factory.mktemp("runs") / "whole.zarr"
    create(path)
    write(path, reversed(range(len(REGIONS))))
    return path


@pytest.mark.parametrize("options", [{}, {"consolidated": False}, {"decode_coords": "all"}])
def test_other_software_understands_it(undisturbed: Path, options: dict[str, Any]) -> None:
    import rioxarray  # noqa: F401  (arrays answer .rio)
    import xarray as xr

    expected = [layers_of(*region) for region in REGIONS]
    with xr.open_zarr(undisturbed, **options) as data:
        assert set(data) == {*LAYERS, ISSUE}
        assert [str(day)[:10] for day in data["time"].to_numpy()] == [str(day) for day in DAYS]
        assert (data["y"].attrs["axis"], data["x"].attrs["axis"]) == ("Y", "X")
        for name in LAYERS:
            array = data[name]
            assert (array.dims, array.shape) == (("time", "y", "x"), (3, 1024, 2048))
            assert array.dtype == (np.uint16 if name == "quality" else np.float32)
            assert array.rio.crs.to_epsg() == 5070
            assert array.rio.transform() == array.rio.transform(recalc=True) == GRID.affine
            assert (array.encoding["chunks"], array.encoding["shards"]) == ((1, 256, 256), (1, 1024, 1024))
            values = array.to_numpy()
            for (tile, day), layers in zip(REGIONS, expected):
                found = values[DAYS.index(day), tile.rows, tile.cols]
                assert np.array_equal(found, PHYSICAL[name].unpack(layers[name]), equal_nan=name != "quality")
        assert data.attrs["model"] == "net"
        assert data.attrs["source"] == "model net from SPL3SMP_E"
        assert data[ISSUE].to_numpy()[2, 0, 1] == int("06" * 8, 16)


def test_the_files_hold_what_zarr_itself_would_write(tmp_path: Path, undisturbed: Path) -> None:
    """zarr's codec in place of ours: the same values, sizes and missing shards; the order of chunks is free."""
    create(tmp_path / "a.zarr")
    group, ours = zarr.open_group(tmp_path / "a.zarr", mode="r+"), zarr.open_group(undisturbed, mode="r")
    for tile, day in REGIONS:
        for name, values in layers_of(tile, day).items():
            physical = PHYSICAL[name].unpack(values)
            group[name][DAYS.index(day), tile.rows, tile.cols] = physical  # type: ignore[index]
        group[ISSUE][REGIONS.index((tile, day)) // 2, 0, tile.cols.start // 1024] = int(  # type: ignore[index]
            fingerprint_of(tile, day)[:16], 16
        )
    written, expected = content(undisturbed), content(tmp_path / "a.zarr")
    assert {name: len(data) for name, data in written.items()} == {name: len(data) for name, data in expected.items()}
    for name in (*LAYERS, ISSUE):
        np.testing.assert_array_equal(ours[name][:], group[name][:])  # type: ignore[index]


def test_every_array_has_its_georeference_under_the_names_of_geozarr(tmp_path: Path) -> None:
    """The convention's text says ``proj``, rioxarray 0.23 looks for ``proj:``, GDAL for the identifier of both."""
    create(tmp_path / "a.zarr")
    for folder, size, shape in (("", 100, [1024, 2048]), ("overview_4", 400, [256, 512])):
        for name in LAYERS:
            found = json.loads((tmp_path / "a.zarr" / folder / name / "zarr.json").read_text())["attributes"]
            names = [(entry["name"], entry["uuid"][:8]) for entry in found["zarr_conventions"]]
            assert names == [
                (name + end, id_) for end in ("", ":") for name, id_ in (("proj", "f17cb550"), ("spatial", "689b58e2"))
            ]
            assert found["proj:code"] == "EPSG:5070"
            assert found["spatial:transform"] == [size, 0, -1843200, 0, -size, 2969600]
            assert found["spatial:bbox"] == list(GRID.boundingbox.bbox)
            assert (found["spatial:dimensions"], found["spatial:shape"]) == (["y", "x"], shape)
    root = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]
    assert [entry["name"] for entry in root["zarr_conventions"]] == ["multiscales"]
    assert not [name for name in root if name.startswith(("spatial:", "proj:"))]  # GDAL 3.13.3 would crash
    layout = root["multiscales"]["layout"]
    transform = [400, 0, -1843200, 0, -400, 2969600]
    assert layout == [{"asset": "overview_4", "spatial:transform": transform, "spatial:shape": [256, 512]}]


def test_a_store_of_version_0_1_0_still_opens(tmp_path: Path) -> None:
    """It has the grid on the group alone and no overviews; a batch replaces it."""
    create(tmp_path / "a.zarr")
    for file in (tmp_path / "a.zarr").rglob("zarr.json"):
        about = json.loads(file.read_text())
        kept = {key: value for key, value in about["attributes"].items() if ":" not in key and key != "multiscales"}
        about["attributes"] = kept
        if file.parent == tmp_path / "a.zarr":
            kept |= {"proj:code": "EPSG:5070", "spatial:transform": [100, 0, -1843200, 0, -100, 2969600]}
        file.write_text(json.dumps(about))
    store = RunStore(tmp_path / "a.zarr")
    assert store.matches(GRID, DAYS, LAYERS)
    assert not store.has(TAGS)
    assert create(tmp_path / "b.zarr").has(TAGS)


def test_regions_that_were_not_written_are_outside(tmp_path: Path) -> None:
    import xarray as xr

    store = create(tmp_path / "a.zarr")
    store.write(*REGIONS[0], layers_of(*REGIONS[0]), "f00d")
    with xr.open_zarr(tmp_path / "a.zarr") as data:
        assert np.isnan(data["soil_moisture"][1:]).all()
        assert (data["quality"][1:] == 1).all()
    assert [store.is_current(*region, "f00d") for region in REGIONS] == [True] + 5 * [False]


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_several_processes_write_at_once(tmp_path: Path, undisturbed: Path) -> None:
    path = tmp_path / "a.zarr"
    create(path)
    run_alone("together", path)
    assert content(path) == content(undisturbed)


def run_alone(function: str, path: Path) -> None:
    """Run a function of this module in a new process, which has no threads and may fork."""
    subprocess.run(
        [sys.executable, "-c", f"import sys, test_zarr_store; test_zarr_store.{function}(sys.argv[1])", str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        check=True,
    )


def together(path: str) -> None:
    """Let three processes write a third of the regions each at the same time."""
    children = []
    for first in range(3):
        pid = os.fork()
        if not pid:
            write(Path(path), range(first, len(REGIONS), 3))
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]


def killed(path: str) -> None:
    """Let processes write until they are killed: in the middle of a file, before its renaming, at any step."""
    real = os.replace

    def child(number: int, half: bool) -> None:
        began = 0

        def replace(hidden: Path, file: Path) -> None:
            nonlocal began
            began += 1
            if began == number:
                if half:
                    os.truncate(hidden, hidden.stat().st_size // 2)
                os.kill(os.getpid(), 9)
            real(hidden, file)

        os.replace = replace  # type: ignore[assignment]
        write(Path(path), range(len(REGIONS)))
        os._exit(0)

    for number in range(1, 8):
        pid = os.fork()
        if not pid:
            child(number, half=number % 2 == 0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9


@pytest.mark.skipif(sys.platform == "win32", reason="no fork and no SIGKILL")
def test_after_kills_the_next_run_makes_the_same_bytes(tmp_path: Path, undisturbed: Path) -> None:
    path = tmp_path / "a.zarr"
    create(path)
    run_alone("killed", path)
    left, whole = content(path), content(undisturbed)
    assert any(".partial" in name for name in left)
    assert all(data == whole[name] for name, data in left.items() if ".partial" not in name)
    store = RunStore(path)
    current = [store.is_current(*region, fingerprint_of(*region)) for region in REGIONS]
    assert 0 < sum(current) < len(REGIONS)
    write(path, range(len(REGIONS)))
    assert content(path) == whole


def test_a_revision_replaces_a_region(tmp_path: Path) -> None:
    store = create(tmp_path / "a.zarr")
    store.write(*REGIONS[0], layers_of(*REGIONS[1]), "aa" * 32)
    store.write(*REGIONS[0], layers_of(*REGIONS[0]), "bb" * 32)
    assert store.is_current(*REGIONS[0], "bb" * 32)
    assert not store.is_current(*REGIONS[0], "aa" * 32)
    create(tmp_path / "b.zarr").write(*REGIONS[0], layers_of(*REGIONS[0]), "bb" * 32)
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")
    store.write(*REGIONS[0], layers_of(*REGIONS[3]), "cc" * 32)  # fill values alone: no shards
    shards = [name for name in content(tmp_path / "a.zarr") if "/c/0/" in name]
    assert shards == [f"{ISSUE}/c/0/0/0"]


@pytest.mark.parametrize("damage", ["cut", "garbled", "gone", "full"])
def test_a_region_must_read_back_to_be_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    store, replace = create(tmp_path / "a.zarr"), os.replace
    tile, day = REGIONS[0]
    store.write(tile, day, layers_of(tile, day), "f00d")

    def broken(hidden: Path, path: Path) -> None:
        if "smap" in path.parts:
            data = hidden.read_bytes()
            if damage == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            changed = {"cut": data[: len(data) // 2], "garbled": bytes(9999) + data[9999:], "gone": b""}[damage]
            hidden.write_bytes(changed)
        replace(hidden, path)

    monkeypatch.setattr(os, "replace", broken)
    message = "No space left" if damage == "full" else "did not read back"
    with pytest.raises(OutputError, match=f"tile h06v03 on 2021-08-08 .*{message}"):
        store.write(tile, day, layers_of(tile, day), "f00d")
    assert not store.is_current(tile, day, "f00d")
    monkeypatch.undo()
    store.write(tile, day, layers_of(tile, day), "f00d")
    assert store.is_current(tile, day, "f00d")


def test_a_damaged_mark_does_not_count(tmp_path: Path) -> None:
    store = create(tmp_path / "a.zarr")
    store.write(*REGIONS[0], layers_of(*REGIONS[0]), "f00d")
    (tmp_path / "a.zarr" / ISSUE / "c/0/0/0").write_bytes(b"abc")
    assert not store.is_current(*REGIONS[0], "f00d")


def test_a_store_knows_its_template(tmp_path: Path) -> None:
    store = create(tmp_path / "a.zarr")
    assert (store.grid, store.days, set(store.layers)) == (GRID, DAYS, set(LAYERS))
    assert store.matches(GRID, list(DAYS), LAYERS[::-1])
    assert not store.matches(TILES[0].geobox, DAYS, LAYERS)
    assert not store.matches(GRID, DAYS[:2], LAYERS)
    assert not store.matches(GRID, DAYS, LAYERS[:2])


def test_a_region_is_a_whole_tile_of_the_store(tmp_path: Path) -> None:
    store = create(tmp_path / "a.zarr")
    with pytest.raises(AssertionError, match="another grid"):
        store.is_current(tiles(TILES[1].geobox)[0], DAYS[0], "f00d")
    with pytest.raises(AssertionError, match="whole tiles"):
        create(tmp_path / "b.zarr", grid=GRID[:1000])


def test_a_store_is_created_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leftover = tmp_path / ".a.zarr.x1.partial"
    (leftover / "store").mkdir(parents=True)  # left by a killed process
    before = content(tmp_path)

    def full(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(zarr.storage._local, "_put", full)
        with pytest.raises(OutputError, match="No space left"):
            create(tmp_path / "a.zarr")
    assert content(tmp_path) == before == {}
    create(tmp_path / "a.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "a.zarr").stat().st_mode == (tmp_path / "plain").stat().st_mode
    before = content(tmp_path)
    with pytest.raises(OutputError, match="already exists"):
        create(tmp_path / "a.zarr")
    assert content(tmp_path) == before


@pytest.mark.parametrize("kind", ["nothing", "file", "folder", "group", "array", "cut", "other version"])
def test_anything_but_a_store_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.zarr"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    elif kind == "group":
        zarr.create_group(path, zarr_format=3)
    elif kind == "array":
        zarr.create_array(path, shape=(1,), dtype="u1", zarr_format=3)
    elif kind in ("cut", "other version"):
        create(path)
        text = (path / "zarr.json").read_text()
        damaged = text[:-99] if kind == "cut" else text.replace('run_store_version": 1', 'run_store_version": 2')
        (path / "zarr.json").write_text(damaged)
    before = content(tmp_path)
    with pytest.raises(
        OutputError, match="another version" if kind == "other version" else "is not the store"
    ) as error:
        RunStore(path)
    assert "\n" not in str(error.value)
    assert content(tmp_path) == before
    assert path.exists() == (kind != "nothing")


def test_the_store_passes_the_cf_checker(tmp_path: Path, undisturbed: Path) -> None:
    import xarray as xr

    with xr.open_zarr(undisturbed) as data:
        part = data.isel(y=slice(0, 64), x=slice(0, 64)).load()
    for one in (part, *part.variables.values()):  # NetCDF has no tables
        one.attrs = {
            name: value for name, value in one.attrs.items() if name not in ("zarr_conventions", "multiscales")
        }
    part["quality"].attrs["flag_masks"] = np.array(part["quality"].attrs["flag_masks"], np.uint16)  # nor JSON types
    part.to_netcdf(tmp_path / "a.nc", encoding={name: {"_FillValue": None} for name in ("y", "x")})
    found = faults(tmp_path / "a.nc")
    assert 3 not in found, found


@pytest.mark.parametrize("crs", ["EPSG:5070", "EPSG:4326"])
def test_the_lazy_product_passes_the_cf_checker(tmp_path: Path, crs: str) -> None:
    import xarray as xr
    from odc.geo.geobox import GeoBox
    from odc.geo.xr import xr_coords

    bounds = (-1_843_200, 2_969_000, -1_842_200, 2_969_800) if crs == "EPSG:5070" else (-120.0, 47.0, -119.9, 47.08)
    box = GeoBox.from_bbox(bounds, crs=crs, shape=(8, 10))
    values = np.full((1, 8, 10), 0.2, np.float32)
    dims = ("time", "y", "x")
    product = attributes(
        xr.Dataset(
            {
                **dict.fromkeys(("soil_moisture", "soil_moisture_std", "smap"), (dims, values)),
                "quality": (dims, np.zeros((1, 8, 10), np.uint16)),
            },
            coords={"time": np.array(["2021-08-08"], "datetime64[ns]"), **xr_coords(box, dims=("y", "x"))},
        ),
        TAGS,
    )
    assert product.odc.geobox == box
    product.to_netcdf(tmp_path / "a.nc")
    found = faults(tmp_path / "a.nc")
    assert 3 not in found, found
