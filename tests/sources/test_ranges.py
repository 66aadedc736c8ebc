"""Impossible values: refused where they are all that there is, else counted."""

from __future__ import annotations

import numpy as np
import pytest

from mmnet_maps.errors import InputError
from mmnet_maps.sources.ranges import OutOfRange
from mmnet_maps.variables import VARIABLES

PERCENT = np.linspace(10, 36, 20, dtype=np.float32)  # soil moisture in percent; its median is 23
CLOUDS = np.full(20, np.nan, np.float32)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "smap",
            PERCENT,
            r"all smap values of x.nc lie outside 0 to 0.9 m3 m-3 \(median 23\).*units, scale",
        ),
        ("smap", np.concatenate([PERCENT, CLOUDS]), "median 23"),
        ("clay", PERCENT * 10 + 10, r"all clay values of x.nc lie outside 0 to 100 percent \(median 240\)"),
        ("tmmx", PERCENT, r"lie outside 220 to 330 K"),
        ("landcover", np.repeat([10, 40], 10).astype(np.uint8), r"no landcover code of x.nc is known .*10, 40.*41, 71"),
    ],
)
def test_values_that_are_all_impossible_are_refused(name: str, values: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message) as found:
        OutOfRange().check(VARIABLES[name], values, "x.nc")
    assert len(str(found.value)) < 300


@pytest.mark.parametrize(
    ("name", "values", "dropped"),
    [
        ("smap", CLOUDS, None),
        ("smap", PERCENT[:15], "15 of 15"),  # too few to say something about all
        ("lst", np.zeros(400, np.float32), "400 of 400"),  # a fill value that nobody states
        ("smap", np.concatenate([PERCENT, PERCENT / 100]), "20 of 40"),
        ("landcover", np.zeros(20, np.uint8), None),
        ("landcover", np.full(20, 11, np.uint8), None),
    ],
)
def test_other_values_are_read(
    name: str, values: np.ndarray, dropped: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    found = OutOfRange()
    found.check(VARIABLES[name], values, "x.nc")
    found.report()
    assert [message.split(" values")[0] for message in caplog.messages] == ([f"{name}: {dropped}"] if dropped else [])


def test_dropped_values_are_reported_once_a_variable(caplog: pytest.LogCaptureFixture) -> None:
    found = OutOfRange()
    for _ in range(3):
        found.check(VARIABLES["pr"], np.where(np.arange(1000) < 2, np.float32(-1), np.float32(3)), "x.nc")
    found.check(VARIABLES["vs"], np.float32([3, np.nan]), "x.nc")
    found.report()
    found.report()
    assert caplog.messages == ["pr: 6 of 3,000 values outside 0 to 650 mm day-1 were dropped"]


def test_a_window_of_impossible_values_among_others_is_read(caplog: pytest.LogCaptureFixture) -> None:
    found = OutOfRange()
    found.check(VARIABLES["smap"], PERCENT / 100, "x.nc")
    found.check(VARIABLES["smap"], PERCENT, "x.nc")
    found.report()
    assert caplog.messages == ["smap: 20 of 40 values outside 0 to 0.9 m3 m-3 were dropped"]
    with pytest.raises(InputError, match="all smap values"):  # of the next run
        found.check(VARIABLES["smap"], PERCENT, "x.nc")


def test_small_windows_are_judged_together() -> None:
    found = OutOfRange()
    found.check(VARIABLES["smap"], PERCENT[:10], "x.nc")
    with pytest.raises(InputError, match="all smap values of y.nc lie outside"):
        found.check(VARIABLES["smap"], PERCENT[10:], "y.nc")


@pytest.mark.parametrize(("name", "low", "high"), [("vv", -40, -36), ("red", 1.8, 2.4)])
def test_the_border_of_a_scene_and_bright_clouds_are_not_refused(
    name: str, low: float, high: float, caplog: pytest.LogCaptureFixture
) -> None:
    found = OutOfRange()
    found.check(VARIABLES[name], np.linspace(low, high, 100, dtype=np.float32), "x.tif")
    found.report()
    (message,) = caplog.messages
    assert message.startswith(f"{name}: 100 of 100 values outside ")
    assert message.endswith("were dropped; check units, scale and offset")
