"""SMAP L4 and surface temperature from NASA's Earthdata: values, logins, and faults."""

from __future__ import annotations

import logging
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from odc.geo.geobox import GeoBox

from fake_open import Asked, FakeOpen, Reply, failing
from mmnet_maps.errors import InputError
from mmnet_maps.sources.base import SourceDownError
from mmnet_maps.sources.open.source import OpenSource
from open_routes import EASE_LEFT, EASE_TOP, Earthdata, lst_quality, lst_stored, smap_values
from open_setup import loopback_config, loopback_source

DAYS = [date(2021, 8, 7), date(2021, 8, 8)]
EASE_CELL = 9008.055210146
SINUSOIDAL_CELL = 926.6254330555555


@pytest.fixture
def nasa(server: FakeOpen, monkeypatch: pytest.MonkeyPatch) -> Earthdata:
    """The services of NASA, with the account of their user in the environment."""
    service = Earthdata()
    server.serve(service)
    monkeypatch.setenv("EARTHDATA_USERNAME", service.user)
    monkeypatch.setenv("EARTHDATA_PASSWORD", service.password)
    return service


def smap_window(source: OpenSource, row: int = 210, col: int = 645, size: int = 6) -> GeoBox:
    lattice = source.lattice("smap")
    top, left = (round((EASE_TOP - lattice.affine.f) / EASE_CELL), round((lattice.affine.c - EASE_LEFT) / EASE_CELL))
    return lattice[row - top : row - top + size, col - left : col - left + size]


def lst_window(source: OpenSource, row: int, col: int, size: int = 6) -> GeoBox:
    """A window by row and column of the global sinusoidal grid."""
    lattice = source.lattice("lst")
    top = round((10007554.677 - lattice.affine.f) / SINUSOIDAL_CELL)
    left = round((lattice.affine.c + 20015109.354) / SINUSOIDAL_CELL)
    return lattice[row - top : row - top + size, col - left : col - left + size]


def smap_expected(day: date, row: int = 210, col: int = 645, size: int = 6, steps: tuple[int, ...] = tuple(range(8))):
    fields = [smap_values(np.arange(row, row + size), np.arange(col, col + size), day, step) for step in steps]
    return np.mean(np.where(np.array(fields) == -9999, np.nan, fields), axis=0)


def test_smap_is_the_mean_of_eight_windows_on_the_ease_grid(
    server: FakeOpen, nasa: Earthdata, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = loopback_source(server, tmp_path, ["smap"])
    geobox = smap_window(source)
    assert source.days("smap", geobox, date(2021, 8, 6), date(2021, 8, 9)) == [
        date(2021, 8, 6) + timedelta(days=k) for k in range(4)
    ]
    cost = source.cost("smap", geobox, DAYS)
    server.log.clear()
    with caplog.at_level(logging.DEBUG):
        found = source.read("smap", geobox, DAYS)["smap"]
    for k, day in enumerate(DAYS):
        np.testing.assert_allclose(found[k], smap_expected(day), rtol=1e-6)
    assert np.isnan(found[0][:, 5]).all()  # column 650 is missing in every field
    assert cost.requests == len(server.requests("opendap")) == 16
    assert len(server.requests("token")) == 2  # earthaccess signs in by two requests
    assert not server.requests("cmr")  # the catalogue was asked before
    for secret in (nasa.password, nasa.tokens[0]):
        assert secret not in caplog.text
        assert all(secret not in path.read_text("latin1") for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_a_day_of_few_fields_is_missing_and_half_a_day_is_its_mean(
    server: FakeOpen, nasa: Earthdata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = nasa.names

    def some(collection: str, first: date, last: date) -> list[Any]:
        return [one for one in whole(collection, first, last) if one[1].date() != DAYS[0] or one[1].hour < 12]

    monkeypatch.setattr(nasa, "names", some)
    source = loopback_source(server, tmp_path, ["smap"])
    found = source.read("smap", smap_window(source), DAYS)["smap"]
    np.testing.assert_allclose(found[0], smap_expected(DAYS[0], steps=(0, 1, 2, 3)), rtol=1e-6)
    monkeypatch.setattr(nasa, "names", lambda *a: [one for one in some(*a) if one[1].hour < 9])
    source = loopback_source(server, tmp_path, ["smap"])
    assert np.isnan(source.read("smap", smap_window(source), DAYS)["smap"]).all()


def test_the_newest_version_of_a_granule_is_used(
    server: FakeOpen, nasa: Earthdata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = nasa.names
    monkeypatch.setattr(
        nasa,
        "names",
        lambda *a: [(name.replace("_001", number), at) for name, at in whole(*a) for number in ("_002", "_001")],
    )
    source = loopback_source(server, tmp_path, ["smap"])
    source.read("smap", smap_window(source), DAYS)
    assert {one.path[-13:-8] for one in server.requests("opendap")} == {"0_002"}


def test_the_catalogue_is_read_page_by_page(server: FakeOpen, nasa: Earthdata, tmp_path: Path) -> None:
    nasa.page = 100  # fewer than are requested
    source = loopback_source(server, tmp_path, ["smap"])
    assert len(source.days("smap", smap_window(source), date(2021, 7, 1), date(2021, 8, 31))) == 62
    assert len(server.requests("cmr")) == 6  # 63 days of 8


def test_a_catalogue_that_ends_too_early_is_no_hole(server: FakeOpen, nasa: Earthdata, tmp_path: Path) -> None:
    def first_page(asked: Asked) -> Reply | None:
        if not asked.path.startswith("/cmr"):
            return None
        found = nasa.answer(asked, server)
        assert found is not None
        return Reply(body=found.body)  # without the header that leads to the next one

    nasa.page = 100
    server.faults.append(first_page)
    source = loopback_source(server, tmp_path, ["smap"])
    with pytest.raises(SourceDownError, match="lists 100 of 504 granules; run the same command again later"):
        source.days("smap", smap_window(source), date(2021, 7, 1), date(2021, 8, 31))


def test_a_granule_without_a_stated_server_has_an_address_by_rule(
    server: FakeOpen, nasa: Earthdata, tmp_path: Path
) -> None:
    nasa.names_servers = False
    config = loopback_config(server, ["smap"])
    config["products"]["smap"]["query"]["opendap"] = f"{server.url}/opendap/{{collection}}/{{granule}}"
    path = tmp_path / "open.yaml"
    path.write_text(yaml.safe_dump(config))
    source = OpenSource(path)
    found = source.read("smap", smap_window(source), DAYS[:1])["smap"]
    np.testing.assert_allclose(found[0], smap_expected(DAYS[0]), rtol=1e-6)


def lst_expected(day: date, row: int, col: int, phase: float, good: tuple[int, ...], size: int = 6) -> np.ndarray:
    rows, cols = np.arange(row, row + size), np.arange(col, col + size)
    stored = lst_stored(rows, cols, day, phase)
    kept = np.isin(lst_quality(rows, cols, day), good) & (stored != 0)
    return np.where(kept, stored * 0.02, np.nan)


@pytest.mark.parametrize(
    ("product", "phase", "good"),
    [("mod11a1", 0.0, (0, 1)), ("vnp21a1d", 0.5, (0, 1))],
)
@pytest.mark.parametrize("col", [9 * 1200 + 700, 10 * 1200 - 3])
def test_surface_temperature_is_masked_by_its_flags_across_tiles(
    server: FakeOpen, nasa: Earthdata, tmp_path: Path, product: str, phase: float, good: tuple[int, ...], col: int
) -> None:
    source = loopback_source(server, tmp_path, [product])
    row = 4 * 1200 + 510
    found = source.read("lst", lst_window(source, row, col), DAYS)["lst"]
    for k, day in enumerate(DAYS):
        np.testing.assert_allclose(found[k], lst_expected(day, row, col, phase, good), rtol=1e-6)
    tiles = 1 if col % 1200 < 1190 else 2
    assert len(server.requests("opendap")) == tiles * len(DAYS)


def test_without_a_login_the_message_names_what_to_do(
    server: FakeOpen, nasa: Earthdata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EARTHDATA_PASSWORD")
    source = loopback_source(server, tmp_path, ["smap"])
    assert source.days("smap", smap_window(source), *DAYS) == DAYS  # the catalogue needs none
    with pytest.raises(SourceDownError, match=r"no login of localhost was found; set EARTHDATA_TOKEN.*netrc.*free"):
        source.read("smap", smap_window(source), DAYS)
    assert not server.requests("opendap")


@pytest.mark.parametrize("way", ["token", "netrc"])
def test_other_ways_to_sign_in(
    server: FakeOpen, nasa: Earthdata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.delenv("EARTHDATA_USERNAME")
    if way == "token":
        monkeypatch.setenv("EARTHDATA_TOKEN", nasa.tokens[0])
    else:
        path = tmp_path / "netrc"
        path.write_text(f'machine localhost login {nasa.user} password "{nasa.password}"\n')
        path.chmod(0o600)
        monkeypatch.setenv("NETRC", str(path))
    source = loopback_source(server, tmp_path, ["smap"])
    found = source.read("smap", smap_window(source), DAYS[:1])["smap"]
    np.testing.assert_allclose(found[0], smap_expected(DAYS[0]), rtol=1e-6)


def test_a_wrong_password_is_named_without_repeating_it(
    server: FakeOpen, nasa: Earthdata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EARTHDATA_PASSWORD", "mistaken")
    source = loopback_source(server, tmp_path, ["smap"])
    with pytest.raises(SourceDownError, match="localhost refuses the name and password of the environment") as error:
        source.read("smap", smap_window(source), DAYS[:1])
    assert "mistaken" not in str(error.value) + caplog.text


@pytest.mark.parametrize("by_redirect", [True, False])
def test_a_token_that_expires_is_renewed_and_nothing_is_lost(
    server: FakeOpen, nasa: Earthdata, tmp_path: Path, by_redirect: bool
) -> None:
    nasa.by_redirect = by_redirect
    source = loopback_source(server, tmp_path, ["smap"])
    geobox = smap_window(source)
    source.read("smap", geobox, DAYS[:1])
    nasa.tokens[:] = ["token-2"]
    found = source.read("smap", geobox, DAYS)["smap"]
    np.testing.assert_allclose(found[1], smap_expected(DAYS[1]), rtol=1e-6)
    assert len(server.requests("find_or_create_token")) == 4


def test_a_given_token_that_expires_cannot_be_renewed(
    server: FakeOpen, nasa: Earthdata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARTHDATA_TOKEN", "token-0")
    source = loopback_source(server, tmp_path, ["smap"])
    with pytest.raises(SourceDownError, match="EARTHDATA_TOKEN is not accepted any more; make a new one at"):
        source.read("smap", smap_window(source), DAYS[:1])


def test_data_whose_terms_were_not_accepted_name_what_to_do(server: FakeOpen, nasa: Earthdata, tmp_path: Path) -> None:
    page = Reply(body=b"<html>Accept the EULA</html>", kind="text/html")
    server.faults.append(failing("opendap", page))
    source = loopback_source(server, tmp_path, ["smap"])
    with pytest.raises(SourceDownError, match="although the login was accepted; open .* accept the terms"):
        source.read("smap", smap_window(source), DAYS[:1])


def test_a_refusal_names_the_alternative(server: FakeOpen, nasa: Earthdata, tmp_path: Path) -> None:
    server.faults.append(failing("opendap", Reply(body=b"Forbidden", status=403)))
    source = loopback_source(server, tmp_path, [["mod11a1", "vnp21a1d"]])
    with pytest.raises(SourceDownError, match=r"refused \(403: Forbidden\).*vnp21a1d \(earthdata\)"):
        source.read("lst", lst_window(source, 5310, 11500), DAYS[:1])


def test_a_truncated_window_is_received_again(server: FakeOpen, nasa: Earthdata, tmp_path: Path) -> None:
    short = Reply(body=b"\x89HDF\r\n\x1a\n" + bytes(200), headers={"Content-Length": "9000"})
    server.faults.append(failing("opendap", short, times=3))
    source = loopback_source(server, tmp_path, ["smap"])
    found = source.read("smap", smap_window(source), DAYS[:1])["smap"]
    np.testing.assert_allclose(found[0], smap_expected(DAYS[0]), rtol=1e-6)


def test_an_answer_that_is_no_window_is_no_value_and_the_next_run_resumes(
    server: FakeOpen, nasa: Earthdata, tmp_path: Path
) -> None:
    third = "20210807T073000"
    server.faults.append(failing(third, Reply(body=b"\x89HDF\r\n\x1a\n" + bytes(200))))
    source = loopback_source(server, tmp_path, ["smap"])
    with pytest.raises(InputError, match="no NetCDF file with /Geophysical_Data/sm_surface came"):
        source.read("smap", smap_window(source), DAYS[:1])
    server.faults.clear()
    received = {one.path for one in server.requests("opendap") if third not in one.path}
    server.log.clear()
    found = loopback_source(server, tmp_path, ["smap"]).read("smap", smap_window(source), DAYS[:1])["smap"]
    np.testing.assert_allclose(found[0], smap_expected(DAYS[0]), rtol=1e-6)
    assert not received & {one.path for one in server.requests("opendap")}


def test_a_window_of_another_size_is_refused(server: FakeOpen, nasa: Earthdata, tmp_path: Path) -> None:
    def smaller(asked: Asked) -> Reply | None:
        if "opendap" not in asked.path or "smaller" in asked.headers:
            return None
        changed = Asked(
            method="GET",
            path=asked.path,
            query={"dap4.ce": asked.query["dap4.ce"].replace("[210:1:215]", "[210:1:214]")},
            headers={**asked.headers, "smaller": "1"},
        )
        return nasa.answer(changed, server)

    server.faults.append(smaller)
    source = loopback_source(server, tmp_path, ["smap"])
    with pytest.raises(InputError, match=r"came with \(5, 6\); expected \(6, 6\)"):
        source.read("smap", smap_window(source), DAYS[:1])


def test_a_day_is_final_after_two_months_and_changes_with_its_granules(
    server: FakeOpen, nasa: Earthdata, tmp_path: Path
) -> None:
    source = loopback_source(server, tmp_path, ["smap"])
    days = [date(2021, 6, 1), DAYS[0]]
    first = source.revisions("smap", smap_window(source), days, date(2021, 8, 9))
    assert [one.final for one in first] == [True, False]
    nasa.absent.add(DAYS[0])
    later = loopback_source(server, tmp_path, ["smap"]).revisions("smap", smap_window(source), days, date(2021, 8, 9))
    assert first[0] == later[0]
    assert first[1].stamps != later[1].stamps == {}


def test_the_login_is_described_without_signing_in(
    server: FakeOpen, nasa: Earthdata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmnet_maps.sources.open.config import OpenConfig
    from mmnet_maps.sources.open.kinds import make_service

    config = OpenConfig.model_validate(loopback_config(server, ["smap"]))
    service = make_service("earthdata", config.services["earthdata"])
    assert service.login() == "NASA Earthdata login, found in EARTHDATA_USERNAME"
    monkeypatch.delenv("EARTHDATA_USERNAME")
    assert service.login() == "NASA Earthdata login (free), not found"
    assert not server.log


def test_a_key_of_the_query_that_is_unknown_is_named(server: FakeOpen, tmp_path: Path) -> None:
    from mmnet_maps.errors import RequestError

    config = loopback_config(server, ["smap"])
    config["products"]["smap"]["query"]["short_name"] = "SPL4SMGP"
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(RequestError, match="products.smap.query.short_name"):
        OpenSource(path)


@pytest.mark.live
@pytest.mark.parametrize("product", ["smap", "mod11a1", "vnp21a1d"])
def test_earthdata_itself(tmp_path: Path, product: str) -> None:
    """One day of a few cells from NASA, with the login of the environment that runs the test."""
    from mmnet_maps.resources import packaged

    config = yaml.safe_load((packaged("configs") / "open.yaml").read_text())
    path = tmp_path / "live.yaml"
    path.write_text(yaml.safe_dump({**config, "use": [product]}))
    source = OpenSource(path)
    group = "smap" if product == "smap" else "lst"
    geobox = smap_window(source) if product == "smap" else lst_window(source, 5110, 11010, 40)
    found = source.read(group, geobox, [date(2021, 8, 8)])[group]
    print(product, np.nanmin(found), np.nanmean(found), np.nanmax(found), np.isfinite(found).mean())
    assert np.isfinite(found).any()
