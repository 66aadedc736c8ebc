"""The store: round trips, commit marks, killed writes, damage."""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from analytic import LATTICES, AnalyticSource
from mmnet_maps.errors import InputError, OutputError, RequestError
from mmnet_maps.grid.tiles import conus_grid
from mmnet_maps.stack.blocks import Group, day_index
from mmnet_maps.stack.layout import complete, create
from mmnet_maps.stack.store import DamagedError, Stack
from mmnet_maps.variables import FIRST_DAY, LAST_DAY, VARIABLES

DAY = date(2021, 8, 8)
WINDOW = (slice(2048, 2304), slice(6144, 6656))


@pytest.fixture
def path(tmp_path: Path, source: AnalyticSource) -> Path:
    groups = {
        "terrain": (conus_grid(), ["elevation"]),
        "landcover": (conus_grid(), ["landcover"]),
        "optical": (conus_grid(), ["red", "nir"]),
        "weather": (LATTICES["weather"], ["pr"]),
    }
    names = [name for _, variables in groups.values() for name in variables]
    create(tmp_path / "s.zarr", conus_grid(), groups, {name: source.variables()[name] for name in names})
    return tmp_path / "s.zarr"


def rasters(source: AnalyticSource, names: list[str], window: tuple[slice, slice] = WINDOW) -> dict[str, np.ndarray]:
    return {name: source.value(name, conus_grid()[window], DAY) for name in names}


def test_what_is_written_is_read_to_packing(path: Path, source: AnalyticSource) -> None:
    written = rasters(source, ["red", "nir"])
    Stack(path, writable=True).write("optical", WINDOW, DAY, written)
    for name, values in written.items():
        found = Stack(path).read(name, WINDOW, DAY)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
        np.testing.assert_allclose(found, values, atol=VARIABLES[name].scale * 0.51, equal_nan=True)


def test_what_was_never_written_is_missing_not_zero(path: Path) -> None:
    stack = Stack(path)
    assert np.isnan(stack.read("red", WINDOW, DAY)).all()
    assert np.isnan(stack.read("elevation", WINDOW)).all()
    assert (stack.read("landcover", WINDOW) == 0).all()
    assert (stack.marks(stack.groups["optical"], WINDOW, [DAY]) == 0).all()


def test_marks_distinguish_empty_from_never_fetched(path: Path, source: AnalyticSource) -> None:
    stack = Stack(path, writable=True)
    group = stack.groups["optical"]
    stack.write("optical", WINDOW, DAY, {})
    assert (stack.marks(group, WINDOW, [DAY]) == 1).all()
    values = rasters(source, ["red", "nir"])
    values["red"][:, 256:] = np.nan
    values["nir"][:, 256:] = np.nan
    stack.write("optical", WINDOW, DAY, values)
    marks = stack.marks(group, WINDOW, [date(2021, 8, 7), DAY])
    assert (marks[0] == 0).all()
    assert marks[1, 0, 0] > 1
    assert marks[1, 0, 1] == 1


def test_marks_change_with_the_data(path: Path, source: AnalyticSource) -> None:
    stack = Stack(path, writable=True)
    group = stack.groups["optical"]
    values = rasters(source, ["red", "nir"])
    stack.write("optical", WINDOW, DAY, values)
    before, print_before = stack.marks(group, WINDOW, [DAY]), stack.fingerprint([(group, WINDOW, [DAY])])
    values["red"][3, 3] += 0.01
    stack.write("optical", WINDOW, DAY, values)
    after = stack.marks(group, WINDOW, [DAY])
    assert (before != after).sum() == 1
    assert stack.fingerprint([(group, WINDOW, [DAY])]) != print_before
    elsewhere = (slice(4096, 4352), slice(6144, 6656))
    assert stack.fingerprint([(group, elsewhere, [DAY])]) == stack.fingerprint([(group, elsewhere, [DAY])])


def test_an_open_stack_sees_marks_that_others_write_and_remove(path: Path, source: AnalyticSource) -> None:
    stack, days = Stack(path), [date(2021, 8, 6), DAY, date(2021, 8, 7)]
    group = stack.groups["optical"]
    other = Stack(path, writable=True)
    for change in (
        lambda: None,
        lambda: other.write("optical", WINDOW, days[0], {}),
        lambda: other.write("optical", WINDOW, DAY, rasters(source, ["red", "nir"])),
        lambda: other.write("optical", WINDOW, days[0], rasters(source, ["red"])),
        lambda: other.clear_marks(group, WINDOW, DAY),
        lambda: shutil.rmtree(path / "optical/fetched/c"),
    ):
        change()
        for _ in range(2):
            found = stack.marks(group, WINDOW, days)
            np.testing.assert_array_equal(found, Stack(path).marks(group, WINDOW, days))
            for k, day in enumerate(days):
                np.testing.assert_array_equal(found[k : k + 1], stack.marks(group, WINDOW, [day]))
    assert not found.any()


def test_a_killed_write_leaves_no_mark(path: Path, source: AnalyticSource, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack(path, writable=True)
    packed = type(VARIABLES["red"]).pack

    def die(self: object, values: np.ndarray) -> np.ndarray:
        if self is VARIABLES["red"]:
            raise KeyboardInterrupt
        return packed(self, values)  # type: ignore[arg-type]

    monkeypatch.setattr(type(VARIABLES["red"]), "pack", die)
    with pytest.raises(KeyboardInterrupt):
        stack.write("optical", WINDOW, DAY, rasters(source, ["red", "nir"]))
    stack = Stack(path)
    assert (stack.marks(stack.groups["optical"], WINDOW, [DAY]) == 0).all()
    with xr.open_datatree(path, engine="zarr") as tree:
        assert set(tree.children) == {"terrain", "landcover", "optical", "weather"}


def test_xarray_and_rioxarray_read_it(path: Path, source: AnalyticSource) -> None:
    Stack(path, writable=True).write("optical", WINDOW, DAY, rasters(source, ["red", "nir"]))
    with xr.open_datatree(path, engine="zarr", decode_coords="all") as tree:
        red = tree["optical"].ds["red"].sel(time="2021-08-08").isel(y=WINDOW[0], x=WINDOW[1])
        assert red.dims == ("y", "x")
        assert red.rio.crs.to_epsg() == 5070
        np.testing.assert_allclose(red, Stack(path).read("red", WINDOW, DAY), atol=1e-6)
        assert red.x[0] == conus_grid()[WINDOW].coordinates["x"].values[0]
        assert tree["weather"].ds["pr"].dims == ("time", "y", "x")
        assert tree["weather"].ds.rio.crs.to_epsg() == 4326
        assert tree["landcover"].ds["landcover"].dtype == np.uint8


def test_xarray_opens_a_stack_without_millions_of_tasks(path: Path, source: AnalyticSource) -> None:
    """The grid has 206 million chunks a variable; as `docs/how-to/stack.md` says, nothing is cut into tasks."""
    Stack(path, writable=True).write("optical", WINDOW, DAY, rasters(source, ["red", "nir"]))
    expected = Stack(path).read("red", WINDOW, DAY)
    with xr.open_datatree(path, engine="zarr") as tree, xr.open_zarr(path, group="optical", chunks=None) as group:
        assert not any(variable.chunks for node in tree.subtree for variable in node.variables.values())
        for data in (tree["optical"].ds, group):
            day = data["red"].sel(time=str(DAY)).isel(y=WINDOW[0], x=WINDOW[1]).chunk(y=256, x=256)
            assert len(dict(day.__dask_graph__())) < 100
            np.testing.assert_allclose(day, expected, atol=1e-6)


def test_georeference_survives(path: Path) -> None:
    stack = Stack(path)
    assert stack.target == conus_grid()
    assert stack.groups["weather"].lattice == LATTICES["weather"]


@given(st.integers(0, 2000), st.integers(1, 600), st.integers(0, 2000), st.integers(1, 600))
def test_whole_blocks_cover_the_window(top: int, height: int, left: int, width: int) -> None:
    group = Group(name="optical", lattice=conus_grid(), block=256, variables=("red",))
    rows, cols = group.whole_blocks((slice(top, top + height), slice(left, left + width)))
    assert rows.start <= top < top + height <= rows.stop
    assert cols.start <= left < left + width <= cols.stop
    assert rows.start % 256 == cols.start % 256 == rows.stop % 256 == cols.stop % 256 == 0
    assert rows.stop - rows.start < height + 512


@pytest.mark.parametrize("day", [date(2014, 12, 31), date(2040, 1, 1)])
def test_days_off_the_axis_are_refused(day: date) -> None:
    with pytest.raises(RequestError, match="off the stack's time axis"):
        day_index(day)
    assert day_index(LAST_DAY) == (LAST_DAY - FIRST_DAY).days


def test_messages(path: Path, tmp_path: Path, source: AnalyticSource) -> None:
    with pytest.raises(InputError, match="no stack at .*nowhere"):
        Stack(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="no stack at .*folder, which is something else; give another path"):
        Stack(tmp_path / "folder")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="stack"):
        Stack(tmp_path / "file")
    with pytest.raises(InputError, match="has no vv; it holds elevation, landcover, nir, pr, red"):
        Stack(path).group_of("vv")
    with pytest.raises(OutputError, match="exists already"):
        create(path, conus_grid(), {}, {})
    with pytest.raises(OutputError, match="cannot create the stack"):
        create(tmp_path / "file" / "s.zarr", conus_grid(), {}, {})


def test_another_version_is_refused(path: Path) -> None:
    import zarr

    with pytest.warns(UserWarning, match="Consolidated"):
        root = zarr.open_group(path, mode="r+")
        root.attrs["mmnet_stack_version"] = 99
        zarr.consolidate_metadata(path)
    with pytest.raises(InputError, match="not a stack of version 1 .*99"):
        Stack(path)


def test_a_damaged_chunk_is_reported(path: Path, source: AnalyticSource) -> None:
    Stack(path, writable=True).write("optical", WINDOW, DAY, rasters(source, ["red", "nir"]))
    chunk = next(file for file in (path / "optical" / "red" / "c").rglob("*") if file.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged in optical/red on 2021-08-08"):
        Stack(path).read("red", WINDOW, DAY)


def test_a_damaged_mark_is_reported(path: Path, source: AnalyticSource) -> None:
    Stack(path, writable=True).write("optical", WINDOW, DAY, rasters(source, ["red", "nir"]))
    chunk = next(file for file in (path / "optical" / "fetched" / "c").rglob("*") if file.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-5])
    stack = Stack(path)
    with pytest.raises(InputError, match="damaged in optical/fetched"):
        stack.marks(stack.groups["optical"], WINDOW, [DAY])


@pytest.mark.parametrize("key", ["provenance", "target"])
def test_a_root_without_its_attributes_is_reported(path: Path, key: str) -> None:
    metadata = json.loads((path / "zarr.json").read_text())
    del metadata["attributes"][key]
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match=f"damaged stack .*{key}"):
        Stack(path)


def test_a_killed_rewrite_leaves_no_block_that_is_half_new(
    path: Path, source: AnalyticSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack(path, writable=True)
    group, old = stack.groups["optical"], rasters(source, ["red", "nir"])
    stack.write("optical", WINDOW, DAY, old, 5)
    before = stack.marks(group, WINDOW, [DAY])
    new = {name: np.where(np.arange(512) < 256, values + 0.1, values) for name, values in old.items()}

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Stack, "record_revision", die)
        with pytest.raises(KeyboardInterrupt):
            stack.write("optical", WINDOW, DAY, new, 7)
    left, right = Stack(path).marks(group, WINDOW, [DAY])[0, 0]
    assert (left, right) == (0, before[0, 0, 1])
    assert np.isnan(Stack(path).read("red", WINDOW, DAY)[:, :256]).all()
    stack.write("optical", WINDOW, DAY, new, 7)
    np.testing.assert_allclose(Stack(path).read("red", WINDOW, DAY), new["red"], atol=1e-4, equal_nan=True)
    assert (Stack(path).revisions(group, WINDOW, [DAY, date(2021, 8, 9)]) == [[[7, 7]], [[0, 0]]]).all()


def test_a_rewrite_without_a_variable_removes_its_values(path: Path, source: AnalyticSource) -> None:
    stack = Stack(path, writable=True)
    stack.write("optical", WINDOW, DAY, rasters(source, ["red", "nir"]))
    stack.write("optical", WINDOW, DAY, rasters(source, ["red"]))
    assert np.isnan(Stack(path).read("nir", WINDOW, DAY)).all()
    assert np.isfinite(Stack(path).read("red", WINDOW, DAY)).any()


def test_equal_data_are_not_written_again(path: Path, source: AnalyticSource) -> None:
    stack = Stack(path, writable=True)
    stack.write("optical", WINDOW, DAY, rasters(source, ["red", "nir"]), 5)
    chunks = [file for name in ("red", "nir") for file in (path / "optical" / name / "c").rglob("*") if file.is_file()]
    before = [file.stat().st_ino for file in chunks]
    stack.write("optical", WINDOW, DAY, rasters(source, ["red", "nir"]), 7)
    assert [file.stat().st_ino for file in chunks] == before
    assert (stack.revisions(stack.groups["optical"], WINDOW, [DAY]) == 7).all()


def test_equal_numbers_of_another_variable_are_written(path: Path) -> None:
    """Red by mistake, then the same as near infrared, twice, then red again: each state has one mark."""
    stack = Stack(path, writable=True)
    group, values = stack.groups["optical"], np.full((256, 512), 0.25, np.float32)
    marks = []
    for k, name in enumerate(("red", "nir", "nir", "red")):
        stack.write("optical", WINDOW, DAY, {name: values}, k + 1)
        found = Stack(path)
        shares = {one: np.isfinite(found.read(one, WINDOW, DAY)).mean() for one in ("red", "nir")}
        assert shares == {"red": float(name == "red"), "nir": float(name == "nir")}
        marks.append(stack.marks(group, WINDOW, [DAY]).tolist())
    assert marks[0] == marks[3] != marks[1] == marks[2]


def test_writing_into_a_damaged_file_is_reported(path: Path, source: AnalyticSource) -> None:
    stack = Stack(path, writable=True)
    stack.write("optical", WINDOW, DAY, rasters(source, ["red", "nir"]))
    (file,) = (file for file in (path / "optical/nir/c").rglob("*") if file.is_file())
    file.write_bytes(file.read_bytes()[:50])
    beside = (slice(2304, 2560), slice(6144, 6400))
    with pytest.raises(DamagedError, match=rf"damaged in optical/nir on {DAY}") as found:
        stack.write("optical", beside, DAY, rasters(source, ["red", "nir"], beside))
    assert found.value.lost == "nir"
    assert (stack.marks(stack.groups["optical"], beside, [DAY]) == 0).all()


def without_revisions(path: Path) -> None:
    """Make a stack as older software did: without the array of revisions."""
    for folder in path.glob("*/revision"):
        shutil.rmtree(folder)
    zarr.consolidate_metadata(path)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_older_stacks_get_the_array_of_revisions(path: Path, source: AnalyticSource) -> None:
    Stack(path, writable=True).write("optical", WINDOW, DAY, rasters(source, ["red", "nir"]), 5)
    without_revisions(path)
    stack = Stack(path)
    assert (stack.revisions(stack.groups["optical"], WINDOW, [DAY]) == 0).all()
    np.testing.assert_allclose(stack.read("red", WINDOW, DAY), rasters(source, ["red"])["red"], atol=1e-4)
    for _ in range(2):
        complete(path)
        Stack(path, writable=True).record_revision("optical", WINDOW, DAY, 9)
        assert (Stack(path).revisions(stack.groups["optical"], WINDOW, [DAY]) == 9).all()
    with xr.open_datatree(path, engine="zarr") as tree:
        assert set(tree.children) == {"terrain", "landcover", "optical", "weather"}


def test_reading_in_threads_leaves_zarrs_settings_as_they_were(path: Path) -> None:
    """The setting that chooses the reader is the process's; left behind, it would write the stores of others."""
    before = zarr.config.get("codec_pipeline.path")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: Stack(path).read("red", WINDOW, DAY), range(64)))
    assert zarr.config.get("codec_pipeline.path") == before
    assert all(np.isnan(values).all() for values in found)
    assert "Zarrs" in type(Stack(path)._array("optical/red")._async_array.codec_pipeline).__name__


def test_maps_of_partly_marked_days_are_due_once_more(path: Path, source: AnalyticSource) -> None:
    """Before, one marked block was enough to read all blocks of a day; maps of other days keep their fingerprint."""
    stack = Stack(path, writable=True)
    group = stack.groups["optical"]
    stack.write("optical", WINDOW, DAY, rasters(source, ["red", "nir"]))

    def before(window: tuple[slice, slice]) -> str:
        digest = hashlib.sha256(json.dumps(stack._root.attrs["provenance"], sort_keys=True).encode())
        digest.update(f"{group.name} {group.lattice.affine} {group.lattice.crs} {window} {[DAY]}".encode())
        digest.update(stack.marks(group, window, [DAY]).tobytes())
        return digest.hexdigest()

    assert stack.fingerprint([(group, WINDOW, [DAY])]) == before(WINDOW)
    rows, cols = WINDOW
    wider = (rows, slice(cols.start, cols.stop + 256))  # one block more, never fetched
    assert stack.fingerprint([(group, wider, [DAY])]) != before(wider)


def test_damaged_metadata_are_reported_in_one_line(path: Path) -> None:
    """Of the root, of groups and of arrays, all of which the root's file holds."""
    whole, of_arrays = (path / "zarr.json").read_text(), ("consolidated_metadata", "metadata")
    for place, value in (
        (("attributes",), []),
        (("attributes", "provenance"), None),
        (("attributes", "provenance", "red"), 5),
        (("attributes", "provenance", "red", "source"), []),
        (("attributes", "provenance", "red", "synthetic"), "no"),
        (("attributes", "target", "crs_wkt"), "x"),
        (("attributes", "target", "crs_wkt"), None),
        (("attributes", "target", "GeoTransform"), None),
        (("attributes", "target", "GeoTransform"), "0 0 0 0 0 0"),
        (("attributes", "target", "shape"), [5, 5]),
        (("attributes", "sources"), 5),
        (("consolidated_metadata",), 5),
        ((*of_arrays, "optical"), []),
        ((*of_arrays, "optical", "attributes", "block"), 5),
        ((*of_arrays, "optical/red", "shape"), [9131, 1024, 1024]),
        ((*of_arrays, "optical/red", "data_type"), "int32"),
        ((*of_arrays, "optical/red", "fill_value"), 0),
        ((*of_arrays, "optical/red", "codecs"), []),
        ((*of_arrays, "optical/fetched", "shape", 0), 5),
        ((*of_arrays, "optical/fetched", "data_type"), "int8"),
        ((*of_arrays, "optical/checksums", "shape", 1), 1),
        ((*of_arrays, "optical/checksums", "attributes", "of"), ["red", "blue"]),
        ((*of_arrays, "optical/spatial_ref", "attributes", "crs_wkt"), {}),
    ):
        metadata = json.loads(whole)
        node = metadata
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value
        (path / "zarr.json").write_text(json.dumps(metadata))
        with pytest.raises(InputError, match="stack|mmnet_stack_version") as found:
            Stack(path)
        assert len(str(found.value)) < 200 + len(str(path)), place
    for text in ("", "{", "5", "null", whole[:500], '{"a":' * 2000):
        (path / "zarr.json").write_text(text)
        with pytest.raises(InputError, match="stack"):
            Stack(path)
