"""gridMET from a THREDDS server: values, states of days, and faults."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from odc.geo.geobox import GeoBox

from fake_open import FakeOpen, Reply, failing
from mmnet_maps.errors import InputError
from mmnet_maps.sources.open import thredds
from mmnet_maps.sources.open.source import OpenSource
from open_routes import GRIDMET, GRIDMET_LAT, GRIDMET_LON, Thredds, gridmet_stored
from open_setup import loopback_source

ASSETS = {"eto": "pet", "etr": "etr", "pr": "pr", "sph": "sph", "srad": "srad", "vpd": "vpd", "vs": "vs",
          "tmmx": "tmmx", "tmmn": "tmmn"}  # fmt: skip
DAYS = [date(2021, 7, 30), date(2021, 7, 31), date(2021, 8, 1)]


def gridmet(server: FakeOpen, folder: Path, **politeness: float) -> OpenSource:
    return loopback_source(server, folder, ["weather"], **politeness)


def window(source: OpenSource, row: int, col: int, size: int = 5) -> GeoBox:
    """A window of the lattice whose first cell is a cell of the file."""
    lattice = source.lattice("weather")
    left = round((lattice.affine.c + 124.7875) * 24)
    top = round((49.4 + 1 / 48 - lattice.affine.f) * 24)
    return lattice[row - top : row - top + size, col - left : col - left + size]


def expected(name: str, row: int, col: int, day: date, size: int = 5, revised: int = 0) -> np.ndarray:
    """The values of a variable from the formula of the server, in physical units."""
    _, scale, offset, _, _ = GRIDMET[ASSETS[name]]
    stored = gridmet_stored(ASSETS[name], GRIDMET_LON[col : col + size], GRIDMET_LAT[row : row + size], day, revised)
    return np.where(stored == 32767, np.nan, stored * scale + offset)


def test_every_variable_is_that_of_the_formula_in_a_few_requests(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Thredds())
    source = gridmet(server, tmp_path)
    geobox = window(source, 50, 120)
    assert source.days("weather", geobox, DAYS[0], date(2021, 8, 4)) == [DAYS[0] + timedelta(days=k) for k in range(6)]
    cost = source.cost("weather", geobox, DAYS)
    server.log.clear()
    found = source.read("weather", geobox, DAYS)
    assert set(found) == set(ASSETS)
    for name, values in found.items():
        for k, day in enumerate(DAYS):
            np.testing.assert_allclose(values[k], expected(name, 50, 120, day), rtol=1e-6, atol=1e-6)
    assert cost.requests == len(server.requests()) == 2 * len(ASSETS)  # two months


def test_a_long_series_of_few_cells_is_a_request_a_variable(server: FakeOpen, tmp_path: Path) -> None:
    """Permanent days are joined, those that may change stay months."""
    server.serve(Thredds(last=date(2021, 7, 20), permanent=150, provisional=190))
    source = gridmet(server, tmp_path)
    geobox = window(source, 50, 120)
    days = source.days("weather", geobox, date(2019, 12, 15), date(2021, 7, 20))
    assert len(days) == (days[-1] - days[0]).days + 1 == 584
    cost = source.cost("weather", geobox, days)
    server.log.clear()
    found = source.read("weather", geobox, days)
    for k in (0, 17, 400, 530, 560, 583):
        for name in ("pr", "tmmx"):
            np.testing.assert_allclose(found[name][k], expected(name, 50, 120, days[k]), rtol=1e-6, atol=1e-6)
    # Until 30 May; 31 May and June; 1 to 9 July, provisional; then early ones.
    assert cost.requests == len(server.requests()) == 5 * len(ASSETS)
    wide = window(source, 50, 120, 40)
    assert source.cost("weather", wide, days).requests > cost.requests  # fewer days at once


def test_the_estimate_of_a_county_is_near_what_is_received(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Thredds())
    source = gridmet(server, tmp_path)
    geobox = window(source, 40, 110, size=40)
    source.days("weather", geobox, DAYS[0], DAYS[-1])
    cost = source.cost("weather", geobox, DAYS)
    server.log.clear()
    source.read("weather", geobox, DAYS)
    assert abs(cost.bytes / sum(sent for _, _, sent in server.log) - 1) < 0.05


def test_values_do_not_depend_on_the_window(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Thredds())
    source = gridmet(server, tmp_path)
    whole = source.read("weather", window(source, 50, 120, 8), DAYS)
    part = source.read("weather", window(source, 52, 123, 3), DAYS)
    for name, values in part.items():
        np.testing.assert_array_equal(values, whole[name][:, 2:5, 3:6])


def test_cells_of_the_sea_are_missing_and_rain_of_nothing_is_not(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Thredds())
    source = gridmet(server, tmp_path)
    found = source.read("weather", window(source, 50, 15), DAYS[:1])["pr"][0]
    assert np.isnan(found[:, :3]).all()
    assert np.isfinite(found[:, 4:]).all()


def test_a_window_is_received_once_and_a_new_run_resumes(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Thredds())
    source = gridmet(server, tmp_path)
    geobox = window(source, 50, 120)
    first = source.read("weather", geobox, DAYS)
    server.log.clear()
    again = gridmet(server, tmp_path).read("weather", geobox, DAYS)
    assert server.requests("ncss") == server.requests("dataset.xml")  # no values
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])


def test_days_after_the_last_one_have_no_values(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Thredds(last=date(2021, 7, 30)))
    source = gridmet(server, tmp_path)
    assert source.days("weather", window(source, 50, 120), DAYS[0], DAYS[-1]) == DAYS[:1]


def test_young_days_are_not_final_and_change_with_their_state(server: FakeOpen, tmp_path: Path) -> None:
    service = Thredds(last=date(2021, 8, 20), permanent=date(2021, 7, 30).timetuple().tm_yday, provisional=212)
    server.serve(service)
    days = [date(2021, 5, 1), *DAYS]
    young = gridmet(server, tmp_path).revisions("weather", GRID, days, date(2021, 8, 21))
    assert [one.final for one in young] == [True, True, False, False]  # permanent, permanent, provisional, early
    service.provisional, service.permanent = 220, 212
    later = gridmet(server, tmp_path).revisions("weather", GRID, days, date(2021, 8, 28))
    assert [one.final for one in later] == [True, True, True, False]
    changed = [a.stamps != b.stamps for a, b in zip(young, later, strict=True)]
    assert changed[2:] == [True, True]
    assert not changed[0]
    assert len(server.requests(r"\.das")) == 2  # once a run: old days need none


def test_young_days_are_received_again_when_their_state_has_changed(
    server: FakeOpen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Thredds(last=date(2021, 8, 5), permanent=100, provisional=date(2021, 7, 31).timetuple().tm_yday)
    server.serve(service)
    source = gridmet(server, tmp_path)
    geobox = window(source, 50, 120)
    source.read("weather", geobox, DAYS)
    service.revised, service.permanent = {DAYS[1]: 7}, 212
    found = gridmet(server, tmp_path).read("weather", geobox, DAYS)
    for name in ("pr", "tmmx"):
        np.testing.assert_allclose(found[name][1], expected(name, 50, 120, DAYS[1], revised=7), rtol=1e-6)


def test_without_stated_states_days_are_young_until_two_months_before_the_last(
    server: FakeOpen, tmp_path: Path
) -> None:
    server.serve(Thredds(last=date(2021, 9, 29), states=False))
    found = gridmet(server, tmp_path).revisions("weather", GRID, DAYS, date(2021, 9, 30))
    assert [one.final for one in found] == [True, False, False]  # 61, 60 and 59 days before


def test_a_busy_server_is_asked_again_after_the_pause_that_it_demands(
    server: FakeOpen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve(Thredds())
    waits: list[float] = []
    monkeypatch.setattr("threading.Event.wait", lambda _, seconds=None: waits.append(seconds) or False)
    server.faults.append(failing("ncss", Reply(status=429, headers={"Retry-After": "23"}), times=1))
    source = gridmet(server, tmp_path)
    assert np.isfinite(source.read("weather", window(source, 50, 120), DAYS[:1])["pr"]).all()
    assert 23 in waits


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"CDF\x01" + bytes(400), headers={"Content-Length": "5000"}),
        Reply(body=b"CDF\x01" + bytes(400)),
        Reply(body=b"<html>Service unavailable</html>", kind="text/html"),
        Reply(body=b""),
    ],
)
def test_a_truncated_or_foreign_answer_is_no_value(server: FakeOpen, tmp_path: Path, reply: Reply) -> None:
    server.serve(Thredds())
    source = gridmet(server, tmp_path, retries=1)
    geobox = window(source, 50, 120)
    source.days("weather", geobox, DAYS[0], DAYS[-1])
    server.faults.append(failing(r"CONUS\.nc$", reply))
    with pytest.raises(InputError, match="northwest-knowledge"):
        source.read("weather", geobox, DAYS)
    server.faults.clear()
    found = gridmet(server, tmp_path).read("weather", geobox, DAYS)["pr"]
    np.testing.assert_allclose(found[0], expected("pr", 50, 120, DAYS[0]), rtol=1e-6)


def test_an_answer_of_fewer_days_or_cells_is_refused(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Thredds())
    source = gridmet(server, tmp_path)
    geobox = window(source, 50, 120)
    source.days("weather", geobox, DAYS[0], DAYS[-1])
    body = thredds_body(server, geobox)
    with pytest.raises(InputError, match="a part of the requested cells"):
        thredds.check_subset(body, "precipitation_amount", geobox, 4, "x")
    with pytest.raises(InputError, match="a part of the requested cells"):
        thredds.check_subset(body, "precipitation_amount", geobox.pad(1), 3, "x")
    with pytest.raises(InputError, match="no NetCDF file with rain"):
        thredds.check_subset(body, "rain", geobox, 3, "x")


def test_a_server_that_hangs_is_given_up(server: FakeOpen, tmp_path: Path) -> None:
    server.faults.append(lambda asked: server.hang(20))  # type: ignore[func-returns-value]
    server.serve(Thredds())
    source = gridmet(server, tmp_path, deadline=0.2, retries=1)
    with pytest.raises(InputError, match="northwest-knowledge.*2 attempts"):
        source.days("weather", window(source, 50, 120), DAYS[0], DAYS[-1])


def thredds_body(server: FakeOpen, geobox: GeoBox) -> bytes:
    """The answer of the server for a window and three days."""
    import requests

    service = f"{server.url}/thredds/ncss/agg_met_pr_1979_CurrentYear_CONUS.nc"
    url = thredds.subset_url(service, "precipitation_amount", geobox, DAYS[0], DAYS[-1])
    return requests.get(url, timeout=10).content


GRID = GeoBox.from_bbox((-120, 46, -119, 47), "EPSG:4326", resolution=1 / 24)


@pytest.mark.live
def test_gridmet_itself() -> None:
    """One day of one cell from the server of the University of Idaho, and what its files state of their days."""
    source = OpenSource()
    last = date.today() - timedelta(days=90)
    found = source.read("weather", window(source, 50, 120), [last])
    print({name: float(values[0, 2, 2]) for name, values in found.items()})
    states = source.revisions("weather", GRID, [date.today() - timedelta(days=k) for k in (100, 30, 3)], date.today())
    print([one.final for one in states])
    assert all(np.isfinite(values[0, 2, 2]) for values in found.values())
