from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmnet_maps.sources.files.attributes import packing
from mmnet_maps.sources.files.description import RasterError, RasterSpec

U2, I2, U1 = np.dtype("u2"), np.dtype("i2"), np.dtype("u1")


def spec(**fields: Any) -> RasterSpec:
    return RasterSpec(path=Path("a.nc"), key="lst", **fields)


@pytest.mark.parametrize("value", [0.02, np.float32(0.02), np.array([0.02]), "0.02", b"0.02\0", ["0.02"]])
def test_a_scale_of_any_type_is_read(value: Any) -> None:
    found = packing(spec(), {"scale_factor": value, "add_offset": np.array([], "f4")}, U2)
    assert (found["scale"], found["offset"]) == (pytest.approx(0.02), 0)


@pytest.mark.parametrize("value", ["abc", np.array([0.1, 0.2]), 0, np.nan, "0.1 0.2"])
def test_a_scale_that_is_no_number_is_refused_unless_the_yaml_states_one(value: Any) -> None:
    with pytest.raises(RasterError, match=r"scale_factor is '.*'; expected one number; give scale in the sources YAML"):
        packing(spec(), {"scale_factor": value}, U2)
    assert packing(spec(scale=0.02), {"scale_factor": value}, U2)["scale"] == 0.02
    assert packing(spec(flags=True), {"scale_factor": value, "_FillValue": "NA\0"}, U1)["nodata"] == ()


@pytest.mark.parametrize(
    ("attributes", "dtype", "nodata"),
    [
        ({"_FillValue": "-9999", "missing_value": b"-1"}, I2, (-9999, -1)),
        ({"missing_value": np.array([-9999, -1], "i2")}, I2, (-9999, -1)),
        ({"_FillValue": np.array([[0]], "u2"), "missing_value": 0}, U2, (0,)),
        ({"_FillValue": np.int8(-1), "_Unsigned": "true"}, U1, (255,)),
        ({"_FillValue": np.int16(-1)}, U2, (65535,)),
        ({"_FillValue": "", "missing_value": []}, U2, ()),
    ],
)
def test_missing_values_of_any_type(
    attributes: dict[str, Any], dtype: np.dtype[Any], nodata: tuple[float, ...]
) -> None:
    assert packing(spec(), attributes, dtype)["nodata"] == nodata


def test_text_marks_no_number_as_missing_and_is_noted() -> None:
    asked = spec()
    assert packing(asked, {"_FillValue": "NA\0", "missing_value": 7}, U1)["nodata"] == (7,)
    assert asked.notes == [
        "_FillValue is 'NA', which marks no number as missing; if one does, give it as nodata in the sources YAML"
    ]


@pytest.mark.parametrize(
    ("attributes", "valid"),
    [
        ({"valid_range": np.array([7500, 65535], "u2"), "scale_factor": 0.02}, (7500, 65535)),
        ({"valid_range": "7500, 65535", "scale_factor": 0.02}, (7500, 65535)),
        ({"valid_range": np.array([7500, -1], "i2")}, (7500, 65535)),
        # Floating-point limits of packed integers are physical: 150 K is stored as 7500.
        ({"valid_min": np.float32(150), "scale_factor": 0.02}, (7500, np.inf)),
        ({"valid_max": np.float64(350), "scale_factor": 0.02, "add_offset": 50.0}, (-np.inf, 15000)),
        ({}, None),
        ({"valid_range": [5, 1]}, None),
        ({"valid_range": "none"}, None),
        ({"valid_range": [1, 2, 3]}, None),
    ],
)
def test_valid_ranges_are_those_of_stored_numbers(
    attributes: dict[str, Any], valid: tuple[float, float] | None
) -> None:
    asked = spec()
    assert packing(asked, attributes, U2)["valid"] == valid
    assert bool(asked.notes) == (valid is None and bool(attributes))
    assert packing(spec(valid=(1.0, 2.0)), attributes, U2)["valid"] is None
