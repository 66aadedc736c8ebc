"""Whole batches on workers in processes of their own: maps that are made, kept, rebuilt, and failures."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import dask
import numpy as np
import pyarrow.dataset
import pystac
import pytest
import rasterio
import xarray as xr
from distributed import Client, LocalCluster, default_client
from filelock import FileLock

from analytic import AnalyticSource, make_model
from batch_world import CORNER, DAYS, SPAN, call, command, contents, leftovers, request, run
from mmnet_maps.errors import InputError, OutputError, RequestError, TilesFailedError
from mmnet_maps.files import file_lock
from mmnet_maps.grid.lattice import window_of
from mmnet_maps.grid.tiles import Tile
from mmnet_maps.mapping.batch.cluster import Work, check_workers, connect, run_all
from mmnet_maps.mapping.batch.dashboard import offer_dashboard
from mmnet_maps.mapping.batch.plan import Batch, plan_batch
from mmnet_maps.mapping.batch.run import run_batch, tasks_of
from mmnet_maps.mapping.batch.worker import LOCKS, run_task
from mmnet_maps.mapping.lazy import downscale_product
from mmnet_maps.mapping.pipeline import Packed, write_days
from mmnet_maps.mapping.smap_consistency import day_consistency
from mmnet_maps.product import day_writer as write
from mmnet_maps.stack.store import Stack

IN_ONE_TILE = "-119.3130,47.8000,-119.3080,47.8060"  # in the filled corner of h06v02


def arguments(stack: Path, model: Path, root: Path) -> list[str | Path]:
    return [*request(stack, model), "--out", root]


def plan(stack: Path, model: Path, root: Path, **options: bool) -> Batch:
    return plan_batch(CORNER, SPAN, stack=stack, model=model, out=root, name="corner", **options)


def test_all_products_of_a_run(made: Path, stack: Path, model: Path) -> None:
    whole = downscale_product(CORNER, SPAN, stack=stack, model=model, quiet=True).compute()
    store = xr.open_zarr(made / "corner_20210807_20210809.zarr")
    overview = xr.open_zarr(made / "corner_20210807_20210809.zarr", group="overview_4")
    xr.testing.assert_allclose(overview["soil_moisture"], store["soil_moisture"].coarsen(y=4, x=4).mean())
    for k, day in enumerate(DAYS):
        folder = made / f"{day:%Y%m%d}"
        for layer in ("soil_moisture", "quality", "smap"):
            with rasterio.open(folder / f"mosaic_{day:%Y%m%d}_{layer}.vrt") as mosaic:
                assert mosaic.shape == (2048, 2048)
                values, missing = mosaic.read(1), mosaic.nodata
            grid = whole.odc.geobox
            rows, cols = window_of(grid, plan(stack, model, made).grid)
            expected, stored = whole[layer].values[k], store[layer].sel(time=str(day)).values
            part = values[rows, cols]
            if layer == "quality":
                np.testing.assert_array_equal(part, expected)
                np.testing.assert_array_equal(stored, values)
                assert (np.delete(np.delete(values, np.r_[rows], 0), np.r_[cols], 1) == 1).all()
            else:
                np.testing.assert_allclose(np.where(part == missing, np.nan, part * 1e-4), expected, atol=5.1e-5)
                np.testing.assert_array_equal(np.isnan(stored), values == missing)
                np.testing.assert_allclose(stored[rows, cols], expected, atol=5.1e-5)
    assert leftovers(made) == []


def test_catalogue_and_report(made: Path) -> None:
    collection = pystac.Collection.from_file(str(made / "collection.json"))
    items = list(collection.get_items(recursive=True))
    assert len(items) == 12
    models = {link.get_absolute_href() for item in items for link in item.get_links("derived_from")}
    assert [pystac.Item.from_file(path).properties["mlm:tasks"] for path in models if path] == [["regression"]]
    table = pyarrow.dataset.dataset(sorted(map(str, made.glob("*/items.parquet")))).to_table(columns=["id"])
    assert table.to_pydict()["id"] == sorted((item.id for item in items), key=lambda name: (name[-8:], name))
    report = json.loads((made / "reports/corner_20210807_20210809.json").read_text())
    assert report["state"] == "done"
    assert {one["state"] for one in report["outcomes"]} == {"made"}
    assert report["pixels_with_value"] > 2000
    assert set(report["closure"]) == {str(day) for day in DAYS}
    assert (made / "styles/soil_moisture.qml").exists()


def test_smap_consistency_from_the_arrays_in_hand_is_that_of_the_files(tmp_path: Path, made: Path, stack: Path) -> None:
    report = json.loads((made / "reports/corner_20210807_20210809.json").read_text())
    for day in DAYS:
        shutil.copytree(made / f"{day:%Y%m%d}", tmp_path / str(day))
        kept = tmp_path / str(day) / f"closure_{day:%Y%m%d}.json"
        before = kept.read_text()
        kept.unlink()
        assert day_consistency(tmp_path / str(day), day, Stack(stack), synthetic=False) == report["closure"][str(day)]
        assert kept.read_text() == before


def test_a_second_run_keeps_all(made: Path, stack: Path, model: Path, workers: list[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.tif")}
    done = call(*arguments(stack, model, made), *workers)
    assert done.returncode == 0
    assert "0 maps made" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.tif")} == before
    shown = subprocess.run([*command("status"), str(made)], capture_output=True, text=True)
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[1].split() == ["2021-08-07", "4", "0", "0"]


def test_a_revised_input_reissues_what_depends_on_it(tmp_path: Path, made: Path, stack: Path, model: Path) -> None:
    mine, root = tmp_path / "s.zarr", tmp_path / "maps"
    shutil.copytree(stack, mine)
    shutil.copytree(made, root)
    batch = plan(mine, model, root)
    open_stack = Stack(mine, writable=True)
    group = open_stack.group_of("red")
    tile = next(one for one in batch.requests if one.area.name == "h06v02").tiles[0]
    window = group.whole_blocks(window_of(tile.geobox, group.lattice))
    lattice = group.lattice[window]
    values = {name: AnalyticSource().value(name, lattice, DAYS[0]) * np.float32(1.01) for name in group.variables}
    open_stack.write(group.name, window, DAYS[1], values)
    outcomes = [one for task in tasks_of(batch) for one in run_task(task)]
    again = {one.tile for one in outcomes if one.state == "made"}
    assert again == {"h06v02"}
    assert {one.version for one in outcomes if one.tile == "h06v02"} == {2}
    assert {one.version for one in outcomes if one.tile != "h06v02"} == {1}


def test_the_version_of_an_issue_survives_a_kill_in_the_middle_of_its_exchange(
    tmp_path: Path, made: Path, stack: Path, model: Path
) -> None:
    root = tmp_path / "maps"
    shutil.copytree(made, root)
    day = root / f"{DAYS[0]:%Y%m%d}"
    item = json.loads((day / "h06v02_20210807.json").read_text())
    item["properties"]["version"] = "4"
    (day / "h06v02_20210807.json").unlink()
    (day / ".h06v02_20210807.previous.json").write_text(json.dumps(item))
    task = next(task for task in tasks_of(plan(stack, model, root)) if task.tile == "h06v02")
    assert [(one.state, one.version) for one in run_task(task)] == [("made", 5), ("kept", 1), ("kept", 1)]
    assert leftovers(root) == []


def test_a_damaged_chunk_fails_the_days_that_need_it(tmp_path: Path, stack: Path, model: Path) -> None:
    mine = tmp_path / "s.zarr"
    shutil.copytree(stack, mine)
    group = Stack(mine).group_of("smap")
    index = (DAYS[1] - date(2015, 1, 1)).days
    for path in (mine / group.name / "smap/c" / str(index)).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    batch = plan(mine, model, tmp_path / "maps", store=False)
    outcomes = run_task(tasks_of(batch)[0])
    assert [one.state for one in outcomes] == ["made", "failed", "made"]
    assert "damaged in smap/smap on 2021-08-08" in str(outcomes[1].error)


def test_a_tile_without_data_fails_alone(
    tmp_path: Path, made: Path, stack: Path, model: Path, workers: list[str]
) -> None:
    done = call(
        *("--tiles", "h20v10", "--date", "2021-08-08", "--stack", stack, "--model", model),
        *("--out", tmp_path / "maps", *workers, "-q"),
    )
    assert done.returncode == 4
    assert "2021-08-08 h20v10 failed: the stack" in done.stdout
    assert "has no" in done.stdout
    assert json.loads((tmp_path / "maps/reports/h20v10_20210808_20210808.json").read_text())["counts"] == {
        "2021-08-08": {"failed": 1, "missing": 0}
    }


def test_a_model_that_is_swapped_stops_the_run(tmp_path: Path, stack: Path) -> None:
    mine = make_model(tmp_path / "model")
    tasks = tasks_of(plan(stack, mine, tmp_path / "maps", store=False))
    assert {one.state for one in run_task(tasks[0])} == {"made"}
    shutil.rmtree(mine)
    make_model(tmp_path / "model", seed=8)
    with pytest.raises(RequestError, match="was changed during the run"):
        run_task(tasks[1])
    assert len(list((tmp_path / "maps/20210808").glob("*.json"))) == 1


def test_a_model_that_is_swapped_in_the_middle_of_a_tile(
    tmp_path: Path, stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = make_model(tmp_path / "model")
    task = tasks_of(plan(stack, mine, tmp_path / "maps", store=False))[0]
    finish = write.DayWriter.finish

    def swapped(self: write.DayWriter, *arguments: Any) -> write.DayProduct:
        made = finish(self, *arguments)
        if made.day == DAYS[0]:
            shutil.rmtree(mine)
            make_model(tmp_path / "model", seed=8)
        return made

    monkeypatch.setattr(write.DayWriter, "finish", swapped)
    with pytest.raises(RequestError, match="was changed during the run"):
        run_task(task)
    assert [path.parent.name for path in (tmp_path / "maps").rglob("h*.json")] == ["20210807"]


def test_inputs_that_change_while_a_map_is_made_are_refused(tmp_path: Path, stack: Path, model: Path) -> None:
    mine = tmp_path / "s.zarr"
    shutil.copytree(stack, mine)
    one = plan(mine, model, tmp_path / "maps", store=False).requests[0]

    def revise(piece: Tile, day: date, packed: Packed, fingerprint: str) -> None:
        writable = Stack(mine, writable=True)
        group = writable.group_of("red")
        window = group.whole_blocks(window_of(piece.geobox, group.lattice))
        values = {name: AnalyticSource().value(name, group.lattice[window], DAYS[0]) for name in group.variables}
        writable.write(group.name, window, DAYS[1], values)

    with pytest.raises(InputError, match="was changed while the map of 2021-08-08 was made"):
        write_days(one, DAYS[1:2], quiet=True, also=revise)
    assert [path.name for path in (tmp_path / "maps/20210808").iterdir()] == []


def test_another_area_does_not_overwrite_a_tile(tmp_path: Path, made: Path, stack: Path, model: Path) -> None:
    other = "-119.3135,47.7767,-119.29,47.80"
    batch = plan_batch(other, SPAN, stack=stack, model=model, out=made, store=False)
    before = contents(made)
    with pytest.raises(OutputError, match="the map of another area"):
        run_task(tasks_of(batch)[0])
    with pytest.raises(OutputError, match="the map of another area"):
        run_batch(batch, workers=1, quiet=True)
    assert contents(made) == before  # the run is not marked as begun


def test_a_tile_is_made_by_one_worker_at_a_time(
    tmp_path: Path, stack: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks_of(plan(stack, model, tmp_path / "maps", store=False))[0]
    (tmp_path / "maps/.mmnet-batch").mkdir(parents=True)
    monkeypatch.setattr("mmnet_maps.mapping.batch.worker._PATIENCE", 0.1)
    with FileLock(tmp_path / "maps/.mmnet-batch" / f"{task.tile}.lock"), pytest.raises(TimeoutError, match="another"):
        run_task(task)


def test_a_broken_map_is_made_again(tmp_path: Path, made: Path, stack: Path, model: Path, workers: list[str]) -> None:
    root = tmp_path / "maps"
    shutil.copytree(made, root)
    shutil.rmtree(root / "corner_20210807_20210809.zarr")
    broken = root / "20210808/h06v02_20210808_soil_moisture.tif"
    content = bytearray(broken.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    broken.write_bytes(content)
    done = call(*arguments(stack, model, root), *workers)
    assert done.returncode == 0, done.stderr
    with rasterio.open(broken) as data:
        data.read(1)


def test_another_model_rebuilds_all_maps_and_the_store(
    tmp_path: Path, made: Path, stack: Path, workers: list[str]
) -> None:
    root, other = tmp_path / "maps", make_model(tmp_path / "other", name="other", seed=9)
    shutil.copytree(made, root)
    done = call(*arguments(stack, other, root), *workers)
    assert done.returncode == 0, done.stderr
    assert "12 maps made" in done.stdout
    store = xr.open_zarr(root / "corner_20210807_20210809.zarr")
    assert store.attrs["model"] == "other"
    assert xr.open_zarr(made / "corner_20210807_20210809.zarr").attrs["model"] == "random"


def test_broken_smap_does_not_undo_a_run(
    tmp_path: Path, made: Path, stack: Path, model: Path, workers: list[str]
) -> None:
    mine, root = tmp_path / "s.zarr", tmp_path / "maps"
    shutil.copytree(stack, mine)
    index = (DAYS[1] - date(2015, 1, 1)).days
    for path in (mine / "smap/smap/c" / str(index)).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    done = call(*arguments(mine, model, root), *workers)
    assert done.returncode == 4, done.stderr
    assert done.stdout.count("failed: the stack") == 4
    report = json.loads((root / "reports/corner_20210807_20210809.json").read_text())
    assert report["counts"]["2021-08-07"] == {"made": 4, "missing": 0}
    assert (root / "collection.json").exists()


def test_a_foreign_file_stops_the_run_before_it_is_lost(
    tmp_path: Path, stack: Path, model: Path, workers: list[str]
) -> None:
    foreign = tmp_path / "maps/20210808/h06v02_20210808_soil_moisture.tif"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    done = call(*arguments(stack, model, tmp_path / "maps"), *workers)
    assert done.returncode == 5
    assert "was not made by mmnet_maps" in done.stderr
    assert foreign.read_text() == "mine"
    assert "stopped" in json.loads((tmp_path / "maps/reports/corner_20210807_20210809.json").read_text())["state"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place, mount = tmp_path / "disk", shutil.which("mount")
    place.mkdir()
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True)
    if not done or done.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_stops_the_run_and_what_was_made_is_kept(
    small_disk: Path, stack: Path, model: Path, workers: list[str]
) -> None:
    root = small_disk / "maps"
    (small_disk / "other").write_bytes(bytes((18 << 20) - (256 << 10)))  # a tile must have 6 MiB, a few leave less
    done = call(*arguments(stack, model, root), *workers, "--no-zarr")
    assert done.returncode == 5, done.stderr
    assert "space" in done.stderr
    items = list(root.rglob("h*.json"))
    (small_disk / "other").unlink()
    assert call(*arguments(stack, model, root), *workers, "--no-zarr").returncode == 0
    assert len(list(root.rglob("h*.json"))) == 12 > len(items)


def test_an_output_that_cannot_be_written(
    small_disk: Path, made: Path, stack: Path, model: Path, workers: list[str]
) -> None:
    root = small_disk / "maps"
    shutil.copytree(made, root)
    before = contents(root)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = call(*arguments(stack, model, root), *workers, "--no-zarr")
    assert done.returncode == 5, done.stderr
    assert f"cannot write to {root} (Read-only file system)" in done.stderr
    assert contents(root) == before


def test_one_run_at_a_time(tmp_path: Path, made: Path, stack: Path, model: Path, workers: list[str]) -> None:
    root = tmp_path / "maps"
    shutil.copytree(made, root)
    (root / ".mmnet-batch.json").write_text('{"host": "here", "pid": 1, "started": "2021-08-08T00:00:00"}')
    with FileLock(root / ".mmnet-batch.lock"):
        done = call(*arguments(stack, model, root))
    assert done.returncode == 5
    assert "another batch is writing" in done.stderr
    assert "process 1 on here" in done.stderr
    done = call(*arguments(stack, model, root), *workers)
    assert done.returncode == 0
    assert "ended without finishing (process 1 on here" in done.stderr
    assert leftovers(root) == []


def test_other_tiles_need_another_name(made: Path, stack: Path, model: Path) -> None:
    for tile, error, message in (
        ("h05v02", RequestError, "give this run another --name"),
        ("h06v02", OutputError, "the map of another area"),  # the whole tile, of which a part is there
    ):
        batch = plan_batch(None, SPAN, tiles=tile, stack=stack, model=model, out=made, name="corner")
        with pytest.raises(error, match=message):
            run_batch(batch)
    assert not (made / ".mmnet-batch.json").exists()  # nothing was begun


def test_a_store_is_filled_from_maps_that_are_there(
    tmp_path: Path, made: Path, stack: Path, model: Path, workers: list[str]
) -> None:
    root = tmp_path / "maps"
    shutil.copytree(made, root)
    shutil.rmtree(root / "corner_20210807_20210809.zarr")
    done = call(*arguments(stack, model, root), *workers)
    assert done.returncode == 0
    assert "0 maps made" in done.stdout
    assert contents(root) == contents(made)


def test_a_task_over_its_limit_is_given_up(tmp_path: Path, stack: Path, model: Path) -> None:
    one = ["--aoi", IN_ONE_TILE, "--date", "2021-08-08", "--stack", stack, "--model", model, "--out", tmp_path / "maps"]
    lock = tmp_path / "maps" / LOCKS / "h06v02.lock"
    lock.parent.mkdir(parents=True)
    with file_lock(lock):  # for which the task waits
        done = run(*one, "-q", "--workers", "1", "--retries", "0", "--time-limit", "0.01")
    assert done.returncode == 4, done.stderr
    assert "it took longer than 0.01 s" in done.stdout


def test_a_time_limit_needs_workers_of_one_thread() -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster.scheduler_address) as client,
        pytest.raises(RequestError, match="runs 2 tasks in one; start the workers with --nthreads 1"),
    ):
        check_workers(client, Path(), [], time_limit=60.0)


def test_the_dashboard_is_imported_when_it_is_opened() -> None:
    with LocalCluster(
        n_workers=0, processes=False, dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False}
    ) as cluster:
        offer_dashboard(cluster)
        address = f"http://127.0.0.1:{cluster.scheduler.http_server.port}"
        for _ in range(2):
            with urlopen(f"{address}/status") as page:  # noqa: S310
                assert page.url == f"{address}/status"
                assert "Dask" in page.read().decode()
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"{address}/no-such-page")  # noqa: S310


def test_a_server_of_another_kind_is_no_scheduler() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_answer, args=[server], daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with (
            dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
            pytest.raises(RequestError, match="no Dask scheduler answers at tcp://127.0.0.1:.* within 1 s"),
            connect(address, 1, None),
        ):
            pass
        with pytest.raises(ValueError, match="No clients found"):  # or what the caller computes next would wait for it
            default_client()


def _answer(server: socket.socket) -> None:
    """Answer every connection as a web server does."""
    with suppress(OSError):
        while True:
            with server.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_worker_over_its_memory_limit_fails_its_tiles(tmp_path: Path, stack: Path, model: Path) -> None:
    one = ["--aoi", IN_ONE_TILE, "--date", "2021-08-08", "--stack", stack, "--model", model, "--out", tmp_path / "maps"]
    done = run(*one, "-q", "--workers", "1", "--retries", "0", "--memory-limit", "100MB")
    assert done.returncode == 4, done.stderr
    assert "h06v02 failed: its worker ended while it was made: over its memory limit (--memory-limit)" in done.stdout


def test_a_run_ends_when_no_worker_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmnet_maps.mapping.batch.cluster._CHECK_EVERY", 0.2)
    monkeypatch.setattr("mmnet_maps.mapping.batch.cluster._WITHOUT_WORKERS", 1.0)

    def nothing(*found: object) -> None:
        raise AssertionError(found)

    work = [Work(name="one", call=int)]
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        pytest.raises(TilesFailedError, match="none is left; finished maps are kept"),
    ):
        run_all(client, work, 0, nothing, nothing)


def test_two_batches_have_dashboards_on_two_ports() -> None:
    with connect(None, 1, None) as one, connect(None, 1, None) as other:
        links = {one.dashboard_link, other.dashboard_link}
        assert len(links) == 2
        assert all(link.startswith("http://127.0.0.1:") for link in links)


def test_workers_that_do_not_close_do_not_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    close = LocalCluster.close

    def fails(cluster: LocalCluster, timeout: float) -> None:  # as where a worker dies while it starts
        close(cluster, timeout=timeout)
        raise AssertionError("can only join a started process")

    monkeypatch.setattr(LocalCluster, "close", fails)
    with connect(None, 1, None) as client:
        assert client.submit(int, "7").result() == 7


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "give --date, or --start and --end"),
        (["--date", "2021-08-08", "--memory-limit", "lots"], "'lots' is not a size"),
        (["--date", "2021-08-08", "--memory-limit", "1KB"], "is too little for a worker"),
        (["--date", "2021-08-08", "--time-limit", "1e300"], "--time-limit 1e+300 is out of bounds"),
        (["--date", "2021-08-08", "--scheduler", "tcp://127.0.0.1:9", "--workers", "2"], "leave --workers"),
        (["status", "maps"], "--aoi comes before status"),
        (["--date", "2021-08-08", "--scheduler", "tcp://127.0.0.1:9"], "no Dask scheduler answers"),
    ],
)
def test_wrong_command_lines(extra: list[str], message: str, stack: Path, model: Path) -> None:
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        done = call("--aoi", CORNER, "--stack", stack, "--model", model, *extra)
    assert done.returncode == 2
    assert message in done.stderr
