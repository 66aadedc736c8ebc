"""Quality flags: every bit, and what it does to the layers of a pixel."""

from __future__ import annotations

import numpy as np
import pytest

from mmnet_maps.product.layers import LAYERS, compose
from mmnet_maps.product.quality import NO_VALUE, QUALITY_BITS, QualityFlags, flags_in, unknown_cover


def one_pixel(**changes: object) -> dict[str, float]:
    """Return the layers of one pixel without flags, apart from the changes."""
    normal: dict[str, object] = {
        "estimate": 0.25,
        "std": 0.02,
        "smap": 0.2,
        "inside": True,
        "landcover": 82,
        "bulk_density": 1.4,
        "optical": 3.0,
        "sar": 3.0,
        "vv": -11.0,
        "vh": -18.0,
        "lst_filled": 0.2,
        "surface_temperature": 300.0,
        "borrowed": False,
        "outside_training": False,
        "synthetic": False,
        "known_classes": ("shrubland", "cropland"),
    } | changes

    def cell(name: str, dtype: type) -> np.ndarray:
        return np.array([[normal[name]]], dtype)

    evidence = QualityFlags(
        ages={"optical": cell("optical", np.float32), "sar": cell("sar", np.float32)},
        backscatter={name: cell(name, np.float32) for name in ("vv", "vh")},
        lst_filled=cell("lst_filled", np.float32),
        surface_temperature=cell("surface_temperature", np.float32),
        gap_filled=cell("borrowed", bool),
        outside_training=cell("outside_training", bool),
        synthetic=bool(normal["synthetic"]),
    )
    layers = compose(
        cell("estimate", np.float32),
        cell("smap", np.float32),
        std=cell("std", np.float32),
        inside=cell("inside", bool),
        unknown=unknown_cover(cell("landcover", np.uint8), normal["known_classes"]),  # type: ignore[arg-type]
        bulk_density=None if normal["bulk_density"] is None else cell("bulk_density", np.float32),
        flags=evidence.bits((1, 1)),
    )
    assert all(values.dtype == (np.uint16 if name == "quality" else np.float32) for name, values in layers.items())
    return {name: values[0, 0] for name, values in layers.items()}


def bits(pixel: dict[str, float]) -> set[str]:
    return {name for name, bit in QUALITY_BITS.items() if int(pixel["quality"]) >> bit & 1}


def test_a_good_pixel_has_no_flag() -> None:
    pixel = one_pixel()
    assert pixel["quality"] == 0
    assert pixel["soil_moisture"] == np.float32(0.25)


@pytest.mark.parametrize(
    ("changes", "flags", "moisture"),
    [
        ({"inside": False}, {"outside_area"}, None),
        ({"landcover": 11}, {"unknown_land_cover"}, None),
        ({"landcover": 41}, {"unknown_land_cover"}, None),
        ({"landcover": 41, "known_classes": ()}, set(), 0.25),
        ({"landcover": 12, "known_classes": ()}, {"unknown_land_cover"}, None),
        ({"estimate": np.nan}, {"input_missing"}, None),
        ({"estimate": np.nan, "landcover": 11}, {"unknown_land_cover"}, None),
        ({"estimate": np.nan, "landcover": 0}, {"input_missing"}, None),
        ({"optical": 17.0}, {"optical_old"}, 0.25),
        ({"optical": 16.0}, set(), 0.25),
        ({"sar": 13.0}, {"sar_old"}, 0.25),
        ({"vv": -4.9}, {"sar_old"}, 0.25),
        ({"vh": -30.5}, {"sar_old"}, 0.25),
        ({"vv": -20.0, "vh": -10.0}, set(), 0.25),
        ({"lst_filled": 0.5}, set(), 0.25),
        ({"lst_filled": 0.51}, {"lst_filled"}, 0.25),
        ({"borrowed": True}, {"coarse_borrowed"}, 0.25),
        ({"outside_training": True}, {"outside_training"}, 0.25),
        ({"estimate": -0.01}, {"clipped"}, 0.0),
        ({"estimate": 0.6}, {"clipped"}, 1 - 1.4 / 2.65),
        ({"estimate": 0.6, "bulk_density": None}, set(), 0.6),
        ({"estimate": 1.2, "bulk_density": None}, {"clipped"}, 1.0),
        ({"estimate": 0.6, "bulk_density": np.nan}, set(), 0.6),
        ({"surface_temperature": 273.0}, {"frozen"}, 0.25),
        ({"synthetic": True}, {"synthetic"}, 0.25),
        ({"synthetic": True, "inside": False}, {"outside_area"}, None),
    ],
)
def test_each_flag(changes: dict[str, object], flags: set[str], moisture: float | None) -> None:
    pixel = one_pixel(**changes)
    assert bits(pixel) == flags
    if moisture is None:
        assert np.isnan(pixel["soil_moisture"])
        assert np.isnan(pixel["soil_moisture_std"]) == ("unknown_land_cover" in flags or "outside_area" in flags)
    else:
        np.testing.assert_allclose(pixel["soil_moisture"], moisture, rtol=1e-6)
        assert pixel["soil_moisture_std"] == np.float32(0.02)


def test_without_members_there_is_no_deviation_and_without_evidence_no_bit() -> None:
    field = np.full((2, 3), 0.2, np.float32)
    mask = np.ones((2, 3), bool)
    layers = compose(field, field, inside=mask, unknown=~mask, bulk_density=None, flags=QualityFlags().bits((2, 3)))
    assert list(layers) == ["soil_moisture", "quality", "smap"]
    assert not layers["quality"].any()


def test_bits_are_those_of_the_specification() -> None:
    assert list(QUALITY_BITS.values()) == list(range(12))
    assert flags_in(0b10000000101) == ["outside_area", "input_missing", "synthetic"]
    assert list(QUALITY_BITS)[:3] == list(NO_VALUE)
    assert LAYERS["quality"].nodata is None
