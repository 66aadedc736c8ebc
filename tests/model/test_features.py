from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.model.features import (
    Feature,
    encode,
    encode_series,
    encode_snapshot,
    encoded_columns,
    required,
    standardise,
    unpack,
)
from mmnet_maps.model.indices import INDICES
from mmnet_maps.model.spec import ModelSpec, profile
from mmnet_maps.model.training_range import TrainingRange, limits
from mmnet_maps.variables import VARIABLES

CLASS_CODES = {  # NLCD legend, by hand
    "developed": [21, 22, 23, 24],
    "barren": [31],
    "forest": [41, 42, 43],
    "shrubland": [51, 52],
    "grassland": [71, 72],
    "pasture": [81],
    "cropland": [82],
    "wetland": [90, 95],
}
BANDS = {"blue": 0.05, "green": 0.08, "red": 0.1, "nir": 0.4, "swir1": 0.3, "swir2": 0.2, "vv": -10.0, "vh": -16.0}
BY_HAND = {  # worked out on paper from BANDS
    "ndvi": 0.6,
    "evi": 2.5 * 0.3 / 1.625,
    "ndwi": -0.32 / 0.48,
    "lswi": 0.1 / 0.7,
    "nsdsi": 1 / 3,
    "cr": 0.625,
    "dpsvim": 356 / 32,
    "pol": -26 / 6,
    "rvim": 64 / 26,
    "vvvh": 6.0,
}


def plain(name: str) -> Feature:
    return Feature(name=name, encoding="identity")


def landcover(*classes: str) -> Feature:
    return Feature(name="landcover", encoding="onehot", classes=classes)


def test_indices_match_values_worked_out_by_hand() -> None:
    bands = {name: np.array([value, np.nan], np.float32) for name, value in BANDS.items()}
    assert set(INDICES) == set(BY_HAND)
    encoded = encode_snapshot(bands, [plain(name) for name in BY_HAND])
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded[0], list(BY_HAND.values()), rtol=1e-5)
    assert np.isnan(encoded[1]).all()


def test_indices_name_stored_bands_and_a_source() -> None:
    for name, index in INDICES.items():
        assert index.name == name
        assert set(index.bands) <= set(VARIABLES)
        assert "(" in index.source


@pytest.mark.parametrize(
    ("name", "bands"),
    [
        ("ndvi", {"nir": 0.0, "red": 0.0}),
        ("evi", {"nir": 0.2, "red": 0.3, "blue": 0.4}),
        ("ndwi", {"green": 0.1, "nir": -0.1}),
        ("lswi", {"nir": 0.0, "swir1": 0.0}),
        ("nsdsi", {"swir1": 0.0, "swir2": 0.1}),
        ("cr", {"vv": -10.0, "vh": 0.0}),
        ("pol", {"vv": -12.0, "vh": -12.0}),
        ("rvim", {"vv": 5.0, "vh": -5.0}),
    ],
)
def test_a_zero_denominator_is_missing(name: str, bands: dict[str, float]) -> None:
    columns = {band: np.array([value], np.float32) for band, value in bands.items()}
    assert np.isnan(encode_snapshot(columns, [plain(name)])).all()


def test_an_index_at_hand_is_used_as_it_is() -> None:
    columns = {"ndvi": np.array([0.25]), "nir": np.array([0.4]), "red": np.array([0.1])}
    assert encode_snapshot(columns, [plain("ndvi")]).item() == 0.25


@given(st.permutations(list(CLASS_CODES)), st.integers(1, 8))
def test_every_land_cover_code(order: list[str], kept: int) -> None:
    classes = tuple(order[:kept])
    codes = np.arange(256, dtype=np.uint8)
    encoded = encode_snapshot({"landcover": codes}, [landcover(*classes)])
    label = {code: name for name, members in CLASS_CODES.items() for code in members}
    for code in range(256):
        if label.get(code) in classes:
            assert encoded[code].tolist() == [float(label[code] == name) for name in classes]
        else:
            assert np.isnan(encoded[code]).all()


@pytest.mark.parametrize("dtype", [object, str])
def test_land_cover_by_name(dtype: type) -> None:
    names = np.array(["forest", "water", "pasture", "cropland"], dtype=dtype)
    encoded = encode_snapshot({"landcover": names}, [landcover("cropland", "forest")])
    nan = [np.nan, np.nan]
    np.testing.assert_array_equal(encoded, np.array([[0, 1], nan, nan, [1, 0]], np.float32))


def test_a_missing_class_name_is_unknown() -> None:
    names = np.array([None, np.nan, "forest"], dtype=object)
    encoded = encode_snapshot({"landcover": names}, [landcover("forest")])
    np.testing.assert_array_equal(encoded, np.array([[np.nan], [np.nan], [1]], np.float32))


@pytest.mark.parametrize("values", [np.array([82.0]), np.array([82], np.int16), np.array([b"forest"])])
def test_land_cover_of_another_type_is_refused(values: np.ndarray) -> None:
    with pytest.raises(InputError, match="landcover"):
        encode_snapshot({"landcover": values}, [landcover("forest")])


def test_half_cosines_of_the_paper() -> None:
    features = [Feature(name="doy", encoding="half_cosine"), Feature(name="aspect", encoding="half_cosine")]
    columns = {"doy": np.array([1, 183, 366], np.int16), "aspect": np.array([0.0, 90.0, 360.0])}
    expected = [[1, 1], [math.cos(182 / 365 * math.pi), math.sqrt(0.5)], [-1, -1]]
    np.testing.assert_allclose(encode_snapshot(columns, features), expected, atol=1e-6)


@given(st.floats(0, 720), st.floats(0, 720))
def test_sincos_closes_the_circle(doy: float, aspect: float) -> None:
    features = [Feature(name="doy", encoding="sincos"), Feature(name="aspect", encoding="sincos")]
    here = {"doy": np.array([doy]), "aspect": np.array([aspect])}
    later = {"doy": np.array([doy + 365.25]), "aspect": np.array([aspect + 360])}
    first = encode_snapshot(here, features)
    np.testing.assert_allclose(first, encode_snapshot(later, features), atol=1e-5)
    np.testing.assert_allclose(
        first[0, 2:], [math.sin(math.radians(aspect)), math.cos(math.radians(aspect))], atol=1e-6
    )
    assert encoded_columns(features) == ("doy_sin", "doy_cos", "aspect_sin", "aspect_cos")


def test_log1p_of_what_has_no_logarithm_is_missing() -> None:
    columns = {"pr": np.array([0.0, math.e - 1, -1.0, -3.0, np.nan])}
    encoded = encode_snapshot(columns, [Feature(name="pr", encoding="log1p")])[:, 0]
    np.testing.assert_allclose(encoded, [0, 1, np.nan, np.nan, np.nan], atol=1e-6)


def test_columns_come_in_the_order_of_the_features_and_nan_stays_in_its_own() -> None:
    features = [plain("smap"), landcover("cropland", "forest"), plain("clay"), Feature(name="doy", encoding="sincos")]
    columns = {
        "clay": np.array([20.0, np.nan]),
        "landcover": np.array([82, 11], np.uint8),
        "doy": np.array([0, 0]),
        "smap": np.array([0.5, 0.25]),
        "unused": np.array(["a", "b"]),
    }
    expected = np.array([[0.5, 1, 0, 20, 0, 1], [0.25, np.nan, np.nan, np.nan, 0, 1]], np.float32)
    np.testing.assert_array_equal(encode_snapshot(columns, features), expected)
    assert encoded_columns(features) == (
        "smap",
        "landcover_cropland",
        "landcover_forest",
        "clay",
        "doy_sin",
        "doy_cos",
    )


def test_many_rows_are_encoded_as_each_alone() -> None:
    n = 40_000  # more than two blocks
    draw = np.random.default_rng(1)
    columns = {"nir": draw.random(n, np.float32), "red": draw.random(n, np.float32)}
    columns["landcover"] = draw.integers(0, 256, n).astype(np.uint8)
    features = [plain("ndvi"), landcover("cropland", "wetland")]
    whole = encode_snapshot(columns, features)
    some = draw.integers(0, n, 50)
    np.testing.assert_array_equal(
        whole[some], encode_snapshot({name: values[some] for name, values in columns.items()}, features)
    )


@given(st.integers(0, 5), st.integers(1, 4))
def test_a_series_is_encoded_step_by_step(cells: int, steps: int) -> None:
    draw = np.random.default_rng(2)
    columns = {name: draw.random((cells, steps), np.float32) for name in ("pr", "vv", "vh")}
    features = [Feature(name="pr", encoding="log1p"), plain("cr")]
    encoded = encode_series(columns, features)
    assert encoded.shape == (cells, steps, 2)
    assert encoded.dtype == np.float32
    for step in range(steps):
        day = {name: values[:, step] for name, values in columns.items()}
        np.testing.assert_array_equal(encoded[:, step], encode_snapshot(day, features))


def test_the_smap_series_is_read_from_smap() -> None:
    smap = np.array([[0.25, 0.5]], np.float32)
    assert required([plain("smap_series")]) == ("smap",)
    np.testing.assert_array_equal(encode_series({"smap": smap}, [plain("smap_series")])[..., 0], smap)
    np.testing.assert_array_equal(encode_series({"smap_series": smap}, [plain("smap_series")])[..., 0], smap)


def test_required_names_each_stored_variable_once() -> None:
    features = [
        landcover("forest"),
        plain("latitude"),
        plain("longitude"),
        Feature(name="doy", encoding="sincos"),
        plain("ndvi"),
        plain("evi"),
        plain("smap"),
        plain("leaf_area"),
    ]
    assert required(features) == ("landcover", "nir", "red", "blue", "smap", "leaf_area")


@pytest.mark.parametrize(
    ("columns", "features", "word"),
    [
        ({"smap": np.zeros(2)}, ["clay"], "'clay'"),
        ({"nir": np.zeros(2)}, ["ndvi"], "'red'.*'ndvi'"),
        ({}, ["smap"], "none"),
        ({"smap": np.zeros(2), "clay": np.zeros(3)}, ["smap", "clay"], r"\(3,\)"),
        ({"smap": np.zeros((2, 2))}, ["smap"], r"\(2, 2\)"),
        ({"smap": np.array(["0.2"])}, ["smap"], "numbers"),
        ({"smap": np.zeros(2)}, [], "no feature"),
    ],
)
def test_bad_columns_are_refused(columns: dict[str, np.ndarray], features: list[str], word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        encode_snapshot(columns, [plain(name) for name in features])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "smap", "encoding": "zscore"},
        {"name": "landcover", "encoding": "onehot"},
        {"name": "landcover", "encoding": "identity"},
        {"name": "clay", "encoding": "onehot", "classes": ("forest",)},
        {"name": "landcover", "encoding": "onehot", "classes": ("forest", "forest")},
        {"name": "landcover", "encoding": "onehot", "classes": ("water",)},
        {"name": "clay", "encoding": "identity", "classes": ("forest",)},
        {"name": "clay", "encoding": "sincos"},
        {"name": "slope", "encoding": "half_cosine"},
    ],
)
def test_features_that_make_no_sense_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=str(arguments["name"])):
        Feature(**arguments)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=5), st.floats(-10, 10), st.floats(0.1, 10))
def test_standardise_is_a_z_score(values: list[float], mean: float, std: float) -> None:
    encoded = np.array(values, np.float32)[:, None]
    before = encoded.copy()
    scaled = standardise(encoded, [mean], [std])
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[:, 0], [(value - mean) / std for value in values], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(encoded, before)


def test_a_deviation_of_zero_counts_as_one_in_a_series_too() -> None:
    encoded = np.full((2, 3, 2), 5, np.float32)
    np.testing.assert_array_equal(standardise(encoded, [5, 4], [0, 0]), np.broadcast_to([0, 1], (2, 3, 2)))


def test_limits_forgive_rounding() -> None:
    low, high = (ends.numpy() for ends in limits([[-1.0, 1.0], [300.0, 310.0]]))
    rows = np.array([[0, 305], [1, 310.0001], [1.001, 305], [0, 299], [np.nan, 305], [-1.0000005, 300]], np.float32)
    assert ((rows < low) | (rows > high)).any(1).tolist() == [False, False, True, True, False, False]


def test_inputs_outside_the_range_are_those_below_or_above_its_limits() -> None:
    spec = profile("released")
    columns = encoded_columns(spec["snapshot"])
    ends = np.sort(np.random.default_rng(0).normal(300, 40, (len(columns), 2)), axis=1)
    numeric = [k for k, column in enumerate(columns) if not column.startswith("landcover_")]
    ends[numeric[1]] = 0  # one value alone
    model = ModelSpec(
        name="range",
        **spec,
        snapshot_mean=(0.0,) * len(columns),
        snapshot_std=(1.0,) * len(columns),
        series_mean=(0.0,) * len(encoded_columns(spec["series"])),
        series_std=(1.0,) * len(encoded_columns(spec["series"])),
        snapshot_range=tuple(map(tuple, ends.tolist())),
    )
    x = np.random.default_rng(1).uniform(*ends[numeric].T, (2000, len(numeric))).T.astype(np.float32)
    x[:, 0], x[:, 1] = ends[numeric].T
    x[1, 2:4] = 1e-6, -1e-6
    far = np.random.default_rng(2).random(x.shape) < 0.02
    x[far] *= np.float32(1.5)
    x[np.random.default_rng(3).random(x.shape) < 0.05] = np.nan  # is never outside
    low, high = (end[numeric, None].numpy() for end in limits(ends))
    found = TrainingRange(model, torch.device("cpu")).outside_snapshot(torch.from_numpy(x), None)
    np.testing.assert_array_equal(found, ((x < low) | (x > high)).any(0))
    assert found[:4].tolist() == [bool(far[:, 0].any()), bool(far[:, 1].any()), True, True]
    assert 0.1 < found.float().mean() < 0.9


def test_packed_integers_are_unpacked_as_a_stack_unpacks_them() -> None:
    packed = np.array([2500, -32768, 0, -7, 32767, -32767], np.int16)
    names = [name for name, variable in VARIABLES.items() if variable.dtype == "int16"]
    steps = torch.from_numpy(packed).expand(len(names), -1)
    found = unpack(names, steps, torch.empty(2, *steps.shape))
    np.testing.assert_array_equal(found, [VARIABLES[name].unpack(packed) for name in names])


def test_one_value_stands_for_all_rows() -> None:
    features = [plain("clay"), Feature(name="doy", encoding="sincos")]
    clay = torch.rand(5)
    one = encode({"clay": clay, "doy": torch.tensor([100.0])}, features)
    torch.testing.assert_close(one, encode({"clay": clay, "doy": torch.full((5,), 100.0)}, features), rtol=0, atol=0)
