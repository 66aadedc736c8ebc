"""The picture of a table: whole, for few and many stations, and never over somebody's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread

from mmnet_maps.errors import OutputError
from mmnet_maps.training.build_table import METADATA
from mmnet_maps.training.table import Samples
from mmnet_maps.training.table_check import check_samples
from mmnet_maps.training.table_plot import _broken_at_gaps, draw_samples
from station_tables import make_table, replace


def drawn(table: pa.Table, path: Path) -> np.ndarray:
    draw_samples(check_samples(Samples(table=table)), path)
    return imread(path)


def test_a_panel_for_every_station(tmp_path: Path) -> None:
    table = make_table(days=20)
    eight = drawn(table, tmp_path / "eight.png")
    one = drawn(table.slice(0, 20), tmp_path / "one.png")
    assert eight.shape[1] == one.shape[1] == 1690
    assert len({tuple(colour) for colour in eight.reshape(-1, 4)[::7]}) > 50, "not empty"
    again = drawn(table, tmp_path / "eight.png")
    np.testing.assert_array_equal(again, eight)


def test_other_values_make_another_picture(tmp_path: Path) -> None:
    table = make_table(days=20).drop_columns(["smap"])
    wetter = replace(table, "soil_moisture", pa.array(table["soil_moisture"].to_numpy() * 1.5))
    first = drawn(table, tmp_path / "a.png")
    assert not np.array_equal(first, drawn(wetter, tmp_path / "b.png"))
    synthetic = table.replace_schema_metadata({METADATA: b'{"synthetic": true}'})
    assert not np.array_equal(drawn(synthetic, tmp_path / "c.png"), first)


def test_tables_without_observations_are_drawn(tmp_path: Path) -> None:
    assert drawn(make_table(days=3).drop_columns(["soil_moisture"]), tmp_path / "a.png").size


def test_somebodys_file_is_left(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="was not made by mmnet_maps"):
        drawn(make_table(days=3), tmp_path / "mine.png")
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


def test_no_line_spans_a_gap() -> None:
    days = np.array(["2021-01-01", "2021-01-02", "2021-01-05"], "datetime64[D]")
    shown, values = _broken_at_gaps(days, np.array([0.1, 0.2, 0.3]))
    assert [str(day) for day in shown] == ["2021-01-01", "2021-01-02", "2021-01-03", "2021-01-05"]
    np.testing.assert_array_equal(values, [0.1, 0.2, np.nan, 0.3])
