"""Ensemble members as Zarr: whole or not at all with the day's files, read back, opened by other software."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rioxarray  # noqa: F401  (arrays answer .rio)
import xarray as xr
import zarr.storage
from odc.geo.geobox import GeoBox

from day_files import DAY, NAMES, content, ensemble, grid, packed, png, produce, writer
from mmnet_maps.errors import OutputError
from mmnet_maps.files import is_ours
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, tiles
from mmnet_maps.product import day_writer as write
from mmnet_maps.product.day_writer import check_target, completed
from mmnet_maps.product.member_store import ARRAY, MembersWriter
from processes import start_interruptible

STORE = "grant_20210808_members.zarr"


def values_of(path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    with xr.open_zarr(path) as data:
        return np.asarray(data[ARRAY])


@pytest.mark.parametrize("order", [1, -1])
def test_tiles_of_a_grid_equal_the_whole(tmp_path: Path, order: int) -> None:
    """Tiles follow the lattice, the chunks of the store do not."""
    box = target_grid(read_aoi("-119.5,46.7,-118.6,47.3"))
    pieces = tiles(box)
    assert len(pieces) >= 2
    assert any(tile.cols.start % 512 or tile.rows.start % 512 for tile in pieces)
    members = ensemble(2, *box.shape)
    members[0, 700, 300:] = -np.float32(np.nan)  # NaN of other bits
    values = packed(*box.shape)
    with writer(tmp_path, box, members=2) as at:
        for tile in pieces[::order]:
            window = (tile.rows, tile.cols)
            at.write(*window, {name: block[window] for name, block in values.items()}, members[:, *window])
        product = at.finish(None)
    assert product.members == tmp_path / "20210808" / STORE
    np.testing.assert_array_equal(values_of(product.members), members)
    assert completed(tmp_path, "grant", DAY, False, "f00d") == product


def test_pixels_in_no_window_are_nan_and_take_no_space(tmp_path: Path) -> None:
    with writer(tmp_path, grid(900, 1100), members=3) as at:
        window = {name: block[:40, :50] for name, block in packed(900, 1100).items()}
        at.write(slice(600, 640), slice(500, 550), window, ensemble(3, 40, 50))
        product = at.finish(None)
    assert product.members is not None
    expected = np.full((3, 900, 1100), np.nan, np.float32)
    expected[:, 600:640, 500:550] = ensemble(3, 40, 50)
    np.testing.assert_array_equal(values_of(product.members), expected)
    chunks = [path for path in (product.members / ARRAY / "c").rglob("*") if path.is_file()]
    assert len(chunks) == 3 * 2


@pytest.mark.parametrize(
    "box",
    [
        grid(30, 40),
        GeoBox.from_bbox((300_000, 5_000_000, 302_000, 5_001_000), crs="EPSG:32611", resolution=100),
        GeoBox.from_bbox((-120, 47, -119.9, 47.05), crs="EPSG:4326", resolution=0.001),
    ],
    ids=["albers", "utm", "degrees"],
)
def test_other_software_understands_it(tmp_path: Path, box: GeoBox) -> None:
    members = ensemble(2, *box.shape)
    store = MembersWriter(tmp_path / "a.zarr", count=2, geobox=box, tags={"model": "net"})
    store.write(slice(0, box.shape[0]), slice(0, box.shape[1]), members)
    store.finish()
    for options in ({}, {"decode_coords": "all"}):
        with xr.open_zarr(tmp_path / "a.zarr", **options) as data:
            assert set(data) == {ARRAY}
            assert (data.attrs["Conventions"], data.attrs["model"]) == ("CF-1.11", "net")
            array = data[ARRAY]
            assert (array.dims, array.dtype) == (("member", "y", "x"), np.float32)
            assert array.attrs["units"] == "m3 m-3"
            assert array.encoding["chunks"] == (1, 512, 512)
            assert array["member"].to_numpy().tolist() == [1, 2]
            assert (array["y"].attrs["axis"], array["x"].attrs["axis"]) == ("Y", "X")
            for item in (data, array):
                assert item.rio.crs.to_epsg() == box.crs.to_epsg()
                assert item.rio.transform(recalc=True).almost_equals(box.affine, 1e-6)
            assert array.rio.transform() == box.affine
            np.testing.assert_array_equal(array, members)


def test_the_item_lists_the_folder(tmp_path: Path) -> None:
    product = produce(tmp_path, packed(5, 5), members=2)
    item = pystac.Item.from_file(str(product.item))
    asset = item.assets["members"]
    assert (asset.href, asset.media_type, asset.roles) == (f"./{STORE}", "application/vnd+zarr", ["data"])
    assert product.members is not None
    assert Path(str(asset.get_absolute_href())).samefile(product.members)
    with xr.open_zarr(product.members) as data:
        assert (data.attrs["MMNET_FINGERPRINT"], data.attrs["model"]) == ("f00d", "net")


def test_the_same_members_give_the_same_bytes(tmp_path: Path) -> None:
    values, members = packed(600, 700, names=NAMES[:1]), ensemble(2, 600, 700)
    produce(tmp_path / "whole", values, members=2)
    with writer(tmp_path / "parts", grid(600, 700), NAMES[:1], members=2) as at:
        for left in (350, 0):
            cols = slice(left, left + 350)
            window = {name: block[:, cols] for name, block in values.items()}
            at.write(slice(0, 600), cols, window, members[:, :, cols])
        at.finish(png)
    assert content(tmp_path / "whole") == content(tmp_path / "parts")


@pytest.mark.parametrize("counts", [(2, 3), (3, 2), (2, 0), (0, 2)])
def test_a_revision_replaces_or_removes_the_store(tmp_path: Path, counts: tuple[int, int]) -> None:
    for fingerprint, count in zip(("old", "new"), counts, strict=True):
        product = produce(tmp_path, packed(5, 5), members=count, fingerprint=fingerprint)
        assert (product.members is not None) == (tmp_path / "20210808" / STORE).exists() == (count > 0)
        assert completed(tmp_path, "grant", DAY, False, fingerprint) == product
    if product.members is not None:
        np.testing.assert_array_equal(values_of(product.members), ensemble(counts[1], 5, 5))
    assert json.loads(product.item.read_text())["properties"]["version"] == "2"


@pytest.mark.parametrize("damage", ["gone", "no attributes", "cut", "other revision"])
def test_a_damaged_store_is_not_finished(tmp_path: Path, damage: str) -> None:
    store = produce(tmp_path, packed(5, 5), members=2).members
    assert store is not None
    if damage == "gone":
        shutil.rmtree(store)
    elif damage == "no attributes":
        (store / "zarr.json").unlink()
    elif damage == "cut":
        (store / "zarr.json").write_text((store / "zarr.json").read_text()[:-10])
    else:
        other = produce(tmp_path / "other", packed(5, 5), members=2, fingerprint="beef").members
        assert other is not None
        shutil.copy(other / "zarr.json", store)
    assert completed(tmp_path, "grant", DAY, False, "f00d") is None


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "store of others", "no JSON object"])
def test_a_foreign_store_is_never_overwritten(tmp_path: Path, kind: str) -> None:
    foreign = tmp_path / "20210808" / STORE
    foreign.parent.mkdir()
    if kind == "file":
        foreign.write_text("mine")
    elif kind == "store of others":
        zarr.create_group(foreign, zarr_format=3)
    else:
        foreign.mkdir()
    if kind in ("folder", "no JSON object"):
        (foreign / ("zarr.json" if kind == "no JSON object" else "thesis.txt")).write_text("[1]")
    before = content(tmp_path)
    assert not is_ours(foreign)
    with pytest.raises(OutputError, match=r"members\.zarr was not made by mmnet_maps.*another output"):
        check_target(tmp_path, "grant", DAY, False, ["smap"], members=True)
    with pytest.raises(OutputError, match="was not made by mmnet_maps"), writer(tmp_path, grid(5, 5), members=2):
        pytest.fail("entered")
    assert content(tmp_path) == before
    produce(tmp_path, packed(5, 5))  # without members the store is not touched
    assert foreign.exists()
    assert before.items() <= content(tmp_path).items()


def test_a_foreign_folder_that_appears_while_computing_is_not_overwritten(tmp_path: Path) -> None:
    with writer(tmp_path, grid(5, 5), members=2) as at:
        at.write(slice(0, 5), slice(0, 5), packed(5, 5), ensemble(2, 5, 5))
        foreign = tmp_path / "20210808" / STORE
        foreign.mkdir()
        (foreign / "mine").write_text("mine")
        with pytest.raises(OutputError, match="was not made by mmnet_maps"):
            at.finish(None)
    assert content(tmp_path) == {f"20210808/{STORE}/mine": b"mine"}


def test_a_write_that_does_not_read_back_is_never_published(tmp_path: Path) -> None:
    for damage in ("gone", "cut", "garbled"):
        with writer(tmp_path, grid(600, 700), NAMES[:1], members=2) as at:
            at.write(slice(0, 600), slice(0, 700), packed(600, 700, names=NAMES[:1]), ensemble(2, 600, 700))
            chunk = next(tmp_path.rglob(f".*.partial/{STORE}/{ARRAY}/c/1/1/1"))
            data = chunk.read_bytes()
            if damage == "gone":
                chunk.unlink()
            else:
                chunk.write_bytes(data[: len(data) // 2] if damage == "cut" else data[:-99] + bytes(99))
            with pytest.raises(OutputError, match=r"members\.zarr did not read back"):
                at.finish(None)
        assert content(tmp_path) == {}


def test_members_are_written_when_and_only_when_they_are_kept(tmp_path: Path) -> None:
    for kept, given in ((0, 2), (2, 0), (2, 3)):
        with writer(tmp_path, grid(5, 5), members=kept) as at, pytest.raises(AssertionError, match="only when kept"):
            at.write(slice(0, 5), slice(0, 5), packed(5, 5), ensemble(given, 5, 5) if given else None)


def test_space_for_members_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(write.shutil, "disk_usage", lambda _: usage._replace(free=13_000_000))
    with pytest.raises(OutputError, match="13 MB free, 14 MB needed"), writer(tmp_path, grid(1000, 1000), members=2):
        pytest.fail("entered")
    assert content(tmp_path) == {}


def test_a_full_disk_leaves_nothing_even_of_the_chunks_still_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One chunk fails while others are slow: these end before the folder is removed, and do not recreate it."""
    put, began = zarr.storage._local._put, []
    lock = threading.Lock()

    def full(path: Path, *rest: Any, **options: Any) -> Any:
        with lock:
            began.append(path)
            first = len(began) == 1
        if first:
            time.sleep(0.1)  # others have begun by then
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        time.sleep(0.3)
        return put(path, *rest, **options)

    whole = slice(0, 1000)
    with writer(tmp_path, grid(1000, 1000), members=4) as at:
        monkeypatch.setattr(zarr.storage._local, "_put", full)
        with pytest.raises(OutputError, match=r"No space left.*nothing of it was kept"):
            at.write(whole, whole, packed(1000, 1000), ensemble(4, 1000, 1000))
    assert len(began) > 1
    time.sleep(0.5)
    assert list((tmp_path / "20210808").iterdir()) == []


def test_ctrl_c_leaves_nothing_even_of_the_chunks_still_under_way(tmp_path: Path) -> None:
    """A real signal, in the middle of a window whose chunks are slow."""
    script = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "import zarr.storage\n"
        "import day_files\n"
        "out, put = Path(sys.argv[1]), zarr.storage._local._put\n"
        "def slow(*args, **options):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.3)\n"
        "    return put(*args, **options)\n"
        "try:\n"
        "    with day_files.writer(out, day_files.grid(50, 50), members=1) as at:\n"
        "        zarr.storage._local._put = slow\n"
        "        at.write(slice(0, 50), slice(0, 50), day_files.packed(50, 50), day_files.ensemble(1, 50, 50))\n"
        "except KeyboardInterrupt:\n"
        "    time.sleep(0.6)\n"
        "    sys.exit(7)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with start_interruptible(
        [sys.executable, "-c", script, tmp_path], env=environment, stderr=subprocess.PIPE, text=True
    ) as child:
        _, errors = child.communicate(timeout=60)
    assert (child.returncode, errors) == (7, "")
    assert list((tmp_path / "20210808").iterdir()) == []


def test_a_store_is_written_in_a_notebook(tmp_path: Path) -> None:
    """A notebook runs an event loop in the calling thread."""

    async def cell() -> Path | None:
        return produce(tmp_path, packed(5, 5), members=2).members

    store = asyncio.run(cell())
    assert store is not None
    np.testing.assert_array_equal(values_of(store), ensemble(2, 5, 5))


def test_the_store_may_be_read_by_others(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    store = produce(tmp_path, packed(5, 5), members=2).members
    assert store is not None
    assert store.stat().st_mode == (tmp_path / "plain").stat().st_mode
