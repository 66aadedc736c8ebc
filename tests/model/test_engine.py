"""The engine compared with the plain networks in float64, pixel by pixel, with columns encoded by `features`."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from mmnet_maps.errors import RequestError
from mmnet_maps.model.checkpoint import Checkpoint
from mmnet_maps.model.engine import Engine, SeriesTerms, StoppedError
from mmnet_maps.model.features import Feature, encode_series, encode_snapshot, required, standardise
from mmnet_maps.model.network import draw_member, networks_of
from mmnet_maps.model.spec import ModelSpec, profile
from mmnet_maps.variables import LANDCOVER_CLASSES, VARIABLES

ARCHITECTURES = (
    "mmnet",
    "mmnet by group",
    "mmnet with water",
    "committee",
    "mlp",
    "transformer",
    "mlp_full",
    "transformer_full",
)
TYPICAL = {  # where the inputs lie, so that standardised ones are of order one
    "elevation": (500, 300), "slope": (5, 4), "aspect": (180, 100), "clay": (20, 8), "sand": (45, 15),
    "bulk_density": (1.4, 0.1), "blue": (0.05, 0.01), "green": (0.08, 0.02), "red": (0.1, 0.03), "nir": (0.3, 0.08),
    "swir1": (0.25, 0.05), "swir2": (0.18, 0.04), "vv": (-11, 2), "vh": (-18, 2), "smap": (0.2, 0.08), "eto": (5, 2),
    "etr": (6, 2), "pr": (2, 2), "sph": (0.007, 0.002), "srad": (220, 60), "vpd": (1.2, 0.6), "vs": (3, 1),
    "tmmx": (300, 8), "tmmn": (285, 7), "lst": (308, 9), "latitude": (42, 4), "longitude": (-110, 9),
}  # fmt: skip


def columns_for(n: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Draw physical values of every snapshot input, without NaN; static ones are packed, as in a stack."""
    draw = np.random.default_rng(seed)
    columns: dict[str, NDArray[Any]] = {
        name: (mean + std * draw.uniform(-1.5, 1.5, n)).astype(np.float32) for name, (mean, std) in TYPICAL.items()
    }
    for name in ("elevation", "slope", "clay", "sand", "bulk_density"):
        columns[name] = VARIABLES[name].pack(np.abs(columns[name])).astype(np.int16)
    codes = [code for members in LANDCOVER_CLASSES.values() for code in members]
    return columns | {"landcover": draw.choice(codes, n).astype(np.uint8), "doy": np.array([220.0], np.float32)}


def series_for(cells: int, days: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    draw = np.random.default_rng(seed + 1)
    return {
        name: np.abs(mean + std * draw.uniform(-1.5, 1.5, (cells, days))).astype(np.float32)
        for name, (mean, std) in TYPICAL.items()
    }


def physical(columns: Mapping[str, NDArray[Any]], n: int) -> dict[str, NDArray[Any]]:
    return {
        name: VARIABLES[name].unpack(values) if values.dtype == np.int16 else np.broadcast_to(values, (n,))
        for name, values in columns.items()
    }


def checkpoint(
    architecture: str, seed: int = 1, layers: int = 1, step_days: tuple[int, ...] | None = None
) -> Checkpoint:
    """Make a model of the released sizes, with random weights and BatchNorm statistics that matter."""
    base = profile("released") | {"architecture": architecture.replace("committee", "mmnet").split()[0]}
    if architecture == "mmnet by group":
        *weather, lst = (feature.name for feature in base["series"])
        order = [*weather[:3], lst, *weather[3:]]
        base["series_groups"] = (
            {"features": weather[:3], "branch": "transformer"},
            {"features": [lst], "branch": "mlp"},
            {"features": weather[3:], "branch": "mlp"},
        )
        base["series"] = tuple(sorted(base["series"], key=lambda one: order.index(one.name)))
    elif architecture in ("mmnet with water", "committee"):
        encodings = {"eto": "identity", "pr": "log1p", "vpd": "identity", "lst": "identity"}
        base["series"] = tuple(Feature(name=name, encoding=encodings[name]) for name in encodings)
        base["series_groups"] = (
            {"features": ["eto", "pr", "vpd"], "branch": "water"},
            {"features": ["lst"], "branch": "mlp"},
        )
    columns, series = columns_for(400), series_for(400, len(step_days or (1,) * 11))
    columns["doy"] = np.linspace(1, 366, 400, dtype=np.float32)
    snapshot = encode_snapshot(physical(columns, 400), base["snapshot"])
    days = encode_series(series, base["series"])
    spec = ModelSpec(
        name=f"{architecture.replace(' ', '-')}-{seed}",
        **base | {"steps": len(step_days or (1,) * 11), "step_days": step_days},
        layers=layers,
        networks=3 if architecture == "committee" else 1,
        snapshot_mean=tuple(snapshot.mean(0).tolist()),
        snapshot_std=tuple(snapshot.std(0).tolist()),
        series_mean=tuple(days.mean((0, 1)).tolist()),
        series_std=tuple(days.std((0, 1)).tolist()),
        snapshot_range=tuple(zip(snapshot.min(0).tolist(), snapshot.max(0).tolist(), strict=True)),
        series_range=tuple(zip(days.min((0, 1)).tolist(), days.max((0, 1)).tolist(), strict=True)),
    )
    torch.manual_seed(seed)
    network = spec.network()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.02, 0.2)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            nn.init.uniform_(module.weight, -0.5, 1.5)
        elif isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
        elif isinstance(module, nn.MultiheadAttention):
            nn.init.normal_(module.in_proj_bias, std=0.2)
            nn.init.normal_(module.out_proj.bias, std=0.2)
    with torch.inference_mode():
        s = standardise(snapshot, spec.snapshot_mean, spec.snapshot_std)
        x = standardise(days, spec.series_mean, spec.series_std)
        spread = network.eval()(torch.from_numpy(s), torch.from_numpy(x)).std()
    for one in networks_of(network):
        one.decoder[8].weight.data *= 0.1 / spread  # outputs spread like soil moisture
    return Checkpoint(spec=spec, network=network, path=Path(), sha256=f"{architecture}{seed}", fingerprint="")


MODELS = {architecture: checkpoint(architecture) for architecture in ARCHITECTURES}


def plain(
    model: Checkpoint,
    columns: Mapping[str, NDArray[Any]],
    series: Mapping[str, NDArray[np.float32]],
    series_id: NDArray[Any],
    network: nn.Module | None = None,
) -> NDArray[np.float64]:
    """Run the plain network in float64, each pixel with its own copy of its series: the engine must equal this."""
    spec = model.spec
    snapshot = standardise(
        encode_snapshot(physical(columns, len(series_id)), spec.snapshot), spec.snapshot_mean, spec.snapshot_std
    )
    steps = {name: by_step(days, spec.step_days) for name, days in series.items()}
    days = standardise(encode_series(steps, spec.series), spec.series_mean, spec.series_std)
    days[np.isnan(days) & (np.array(spec.step_days or (1,) * spec.steps)[:, None] > 1)] = 0
    exact = copy.deepcopy(network or model.network).double().eval()
    with torch.inference_mode():
        found: NDArray[np.float64] = exact(
            torch.from_numpy(snapshot).double(), torch.from_numpy(days[series_id]).double()
        ).numpy()
    return found


def member(model: Checkpoint, number: int) -> nn.Module:
    """Draw a member from the networks of a model in turn."""
    networks = networks_of(model.network)
    return draw_member(networks[number % len(networks)], model.seed(number))


def by_step(days: NDArray[np.float32], step_days: tuple[int, ...] | None) -> NDArray[np.float32]:
    """Return the mean of the days of each step, NaN where more than half are missing."""
    if step_days is None:
        return days
    parts = np.split(days, np.cumsum(step_days)[:-1], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the mean of nothing
        means = [np.where(np.isnan(part).mean(1) > 0.5, np.nan, np.nanmean(part, 1)) for part in parts]
    return np.stack(means, 1).astype(np.float32)


def series_ids(n: int, cells: int, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed + 2).integers(0, cells, n).astype(np.int32)


def terms_of(engine: Engine, series: Mapping[str, NDArray[np.float32]]) -> SeriesTerms:
    return engine.encode_series(series)[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_engine_equals_the_plain_network(architecture: str) -> None:
    model = MODELS[architecture]
    columns, series, series_id = columns_for(3000), series_for(40, 11), series_ids(3000, 40)
    engine = Engine(model, device="cpu", pixels=700, series_cells=16)
    found = engine.predict(columns, terms_of(engine, series), series_id)
    assert found.estimate.dtype == np.float32
    assert found.std is None
    expected = plain(model, columns, series, series_id)
    assert 0.05 < expected.std() < 0.2
    assert np.abs(found.estimate - expected).max() <= 1e-5


def test_several_transformer_layers() -> None:
    model = checkpoint("mmnet", layers=3)
    columns, series, series_id = columns_for(500), series_for(30, 12), series_ids(500, 30)
    engine = Engine(model, device="cpu")
    later = engine.encode_series(series, starts=(0, 1))[1]
    expected = plain(model, columns, {name: values[:, 1:] for name, values in series.items()}, series_id)
    assert np.abs(engine.predict(columns, later, series_id).estimate - expected).max() <= 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_days_together_equal_each_alone(architecture: str) -> None:
    columns, series, series_id = columns_for(400), series_for(30, 15), series_ids(400, 30)
    engine = Engine(MODELS[architecture], device="cpu")
    together = engine.encode_series(series, starts=(0, 1, 4))
    for start, terms in zip((0, 1, 4), together, strict=True):
        alone = terms_of(engine, {name: values[:, start : start + 11] for name, values in series.items()})
        first, second = (engine.predict(columns, part, series_id).estimate for part in (terms, alone))
        assert np.abs(first - second).max() <= 1e-6


def by_group(days: int, n: int, seed: int = 0) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int32]]:
    """Return series for the grouped model, each group with cells of its own, and the cells (groups, n) of pixels."""
    series: dict[str, NDArray[np.float32]] = {}
    ids = []
    for group, (features, cells) in enumerate(
        zip(MODELS["mmnet by group"].spec.feature_groups, (7, 40, 3), strict=True)
    ):
        drawn = series_for(cells, days, seed + group)
        series |= {feature.name: drawn[feature.name] for feature in features}
        ids.append(series_ids(n, cells, seed + group))
    return series, np.stack(ids)


def by_pixel(series: Mapping[str, NDArray[np.float32]], ids: NDArray[np.int32]) -> dict[str, NDArray[np.float32]]:
    """Give each pixel its own copy of its series."""
    groups = zip(MODELS["mmnet by group"].spec.feature_groups, ids, strict=True)
    return {feature.name: series[feature.name][rows] for features, rows in groups for feature in features}


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 3), st.integers(0, 3))
def test_each_group_has_cells_of_its_own(pixels: int, cells: int, threads: int, seed: int) -> None:
    model = MODELS["mmnet by group"]
    columns = columns_for(211, seed)
    series, ids = by_group(15, 211, seed)
    series["lst"][5, 12] = np.nan
    ids[:, 7] = -1
    engine = Engine(model, device="cpu", draws=2, pixels=pixels, series_cells=cells, threads=threads)
    for start, terms in zip((0, 2, 4), engine.encode_series(series, starts=(0, 2, 4)), strict=True):
        mine = by_pixel({name: days[:, start : start + 11] for name, days in series.items()}, ids)
        expected = plain(model, columns, mine, np.arange(211))
        expected[7] = np.nan
        found = engine.predict(columns, terms, ids, keep_members=True)
        np.testing.assert_allclose(found.estimate, expected, atol=1e-5, rtol=0)
        np.testing.assert_array_equal(np.isnan(expected), (ids[1] == 5) & (start > 1) | (ids[0] < 0))
        drawn = [plain(model, columns, mine, np.arange(211), member(model, k)) for k in (0, 1)]
        assert found.members is not None
        complete = np.isfinite(expected)
        np.testing.assert_allclose(found.members[:, complete], np.array(drawn)[:, complete], atol=2e-5, rtol=0)


def test_groups_of_series_run_once_per_cell_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, (series, ids) = columns_for(211), by_group(15, 211)
    engine = Engine(MODELS["mmnet by group"], device="cpu", series_cells=16)
    split, rows = engine._networks[0].split, {0: 0, 1: 0, 2: 0}

    class Counting:
        def terms(self, group: int, x: torch.Tensor, places: Any) -> list[torch.Tensor]:
            rows[group] += x.shape[1]
            return split.terms(group, x, places)

        target = split.target

    network = dataclasses.replace(engine._networks[0], split=Counting())
    monkeypatch.setattr(engine, "_networks", [network])
    engine.predict(columns, engine.encode_series(series, starts=(0, 4))[1], ids)
    assert rows == {0: 7, 1: 40, 2: 3}


def test_a_group_outside_the_training_range_is_marked_for_its_own_pixels() -> None:
    columns, (series, ids) = columns_for(211), by_group(11, 211)
    engine = Engine(MODELS["mmnet by group"], device="cpu")
    series = {name: 0.5 * values + 0.5 * np.float32(TYPICAL[name][0]) for name, values in series.items()}
    before = engine.predict(columns, terms_of(engine, series), ids).outside
    series["lst"][5, 2], series["vpd"][2, 0] = 400.0, 14.0
    after = engine.predict(columns, terms_of(engine, series), ids).outside
    np.testing.assert_array_equal(after, before | (ids[1] == 5) | (ids[2] == 2))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steps_of_several_days_are_their_means(architecture: str) -> None:
    step_days = (10, 5, 5, 1, 1, 1)
    model = checkpoint(architecture, step_days=step_days)
    columns, series_id = columns_for(400), series_ids(400, 30)
    series = series_for(30, 29)
    for k, values in enumerate(series.values()):
        values[k, 2:9] = np.nan  # the oldest step counts as average
        values[20 - k, 4] = np.nan
    series["eto"][29, 26] = np.nan  # a day that is needed, of every map
    engine = Engine(model, device="cpu", series_cells=16)
    for start, terms in zip((0, 1, 5, 6), engine.encode_series(series, starts=(0, 1, 5, 6)), strict=True):
        mine = {name: values[:, start : start + 23] for name, values in series.items()}
        expected = plain(model, columns, mine, series_id)
        missing = np.isnan(expected)
        assert missing.any() == (start > 3 and architecture != "mlp")  # which reads the last step alone
        found = engine.predict(columns, terms, series_id).estimate
        np.testing.assert_array_equal(np.isnan(found), missing)
        assert np.abs(found - expected)[~missing].max() <= 1e-5


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 3), st.sampled_from(ARCHITECTURES), st.integers(0, 3))
def test_blocks_and_threads_do_not_matter(pixels: int, cells: int, threads: int, architecture: str, seed: int) -> None:
    columns, series, series_id = columns_for(211, seed), series_for(17, 11, seed), series_ids(211, 17, seed)
    estimates = []
    for options in ({}, {"pixels": pixels, "series_cells": cells, "threads": threads}):
        engine = Engine(MODELS[architecture], device="cpu", **options)  # type: ignore[arg-type]
        estimates.append(engine.predict(columns, terms_of(engine, series), series_id).estimate)
    assert np.abs(estimates[0] - estimates[1]).max() <= 1e-6


def test_the_same_call_gives_the_same_bytes_and_torch_keeps_its_threads() -> None:
    columns, series, series_id = columns_for(500), series_for(30, 11), series_ids(500, 30)
    before = torch.get_num_threads()
    engines = [Engine(MODELS["mmnet"], device="cpu", threads=2) for _ in range(2)]
    first, second = (engine.predict(columns, terms_of(engine, series), series_id).estimate for engine in engines)
    np.testing.assert_array_equal(first, second)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("architecture", ["mmnet", "mmnet by group", "mlp_full", "transformer_full"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_incomplete_pixels_are_missing_and_leave_the_others_alone(architecture: str, precision: str) -> None:
    columns, series, series_id = columns_for(400), series_for(20, 11), series_ids(400, 20)
    engine = Engine(MODELS[architecture], device="cpu", precision=precision)
    expected = engine.predict(columns, terms_of(engine, series), series_id).estimate
    series_id[7] = -1
    columns["smap"][3] = np.nan
    columns["vv"][90] = np.nan
    columns["red"][11] = np.inf
    columns["clay"][12] = VARIABLES["clay"].nodata
    columns["landcover"][13] = 11
    columns["landcover"][14] = 0
    series["pr"][5, 10] = np.nan
    series["lst"][6, 0] = np.inf
    missing = np.isin(series_id, [5, 6]) | np.isin(np.arange(400), [3, 7, 11, 12, 13, 14, 90])
    estimate = engine.predict(columns, terms_of(engine, series), series_id).estimate
    np.testing.assert_array_equal(np.isnan(estimate), missing)
    np.testing.assert_allclose(estimate[~missing], expected[~missing], atol=1e-6, rtol=0)


def test_pixels_without_a_series_cell_are_skipped() -> None:
    """Their rows are not even gathered, so they may hold anything."""
    columns, series, series_id = columns_for(900), series_for(5, 11), series_ids(900, 5)
    engine = Engine(MODELS["mmnet"], device="cpu", pixels=64)
    terms = terms_of(engine, series)
    expected = engine.predict(columns, terms, series_id).estimate
    skipped = np.random.default_rng(5).random(900) < 0.6
    series_id[skipped] = -1
    seen = []
    block = engine._block
    engine._block = lambda used, series_id, rows: seen.append(rows) or block(used, series_id, rows)  # type: ignore[method-assign,func-returns-value]
    estimate = engine.predict(columns, terms, series_id).estimate
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.flatnonzero(~skipped))
    assert np.isnan(estimate[skipped]).all()
    np.testing.assert_allclose(estimate[~skipped], expected[~skipped], atol=1e-6, rtol=0)


@pytest.mark.parametrize("cells", [0, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_pixels_and_no_cells_give_no_estimates(cells: int, architecture: str) -> None:
    engine = Engine(MODELS[architecture], device="cpu")
    terms = terms_of(engine, series_for(cells, 11))
    assert np.isnan(engine.predict(columns_for(4), terms, np.full(4, -1)).estimate).all()
    assert engine.predict(columns_for(0), terms, np.zeros(0, np.int64)).estimate.shape == (0,)


def test_inputs_outside_the_training_range_are_marked() -> None:
    columns, series, series_id = columns_for(300), series_for(20, 11), series_ids(300, 20)
    engine = Engine(MODELS["mmnet"], device="cpu")
    inner = {name: 0.5 * values + 0.5 * np.float32(TYPICAL[name][0]) for name, values in series.items()}
    calm = {name: 0.5 * columns[name] + 0.5 * np.float32(TYPICAL[name][0]) for name in ("smap", "red", "nir", "vv")}
    columns |= calm
    assert engine.predict(columns, terms_of(engine, inner), series_id).outside.mean() < 0.5
    before = engine.predict(columns, terms_of(engine, inner), series_id).outside
    columns["smap"][3] = 0.9
    inner["vpd"][5, 2] = 14.0
    after = engine.predict(columns, terms_of(engine, inner), series_id).outside
    np.testing.assert_array_equal(after, before | (series_id == 5) | (np.arange(300) == 3))
    text = MODELS["mmnet"].spec.model_copy(
        update={"snapshot_range": tuple((0.0, 0.0) if "landcover" in c else r for c, r in _ranges(MODELS["mmnet"]))}
    )
    none = Checkpoint(spec=text, network=MODELS["mmnet"].network, path=Path(), sha256="", fingerprint="")
    never = Engine(none, device="cpu")
    assert never.predict(columns, terms_of(never, inner), series_id).outside.all()  # no class was seen in training


def _ranges(model: Checkpoint) -> list[tuple[str, tuple[float, float]]]:
    from mmnet_maps.model.features import encoded_columns

    assert model.spec.snapshot_range is not None
    return list(zip(encoded_columns(model.spec.snapshot), model.spec.snapshot_range, strict=True))


def test_the_engine_keeps_a_network_of_its_own() -> None:
    model = checkpoint("mmnet")
    engine = Engine(model, device="cpu")
    columns, series, series_id = columns_for(50), series_for(5, 11), series_ids(50, 5)
    expected = engine.predict(columns, terms_of(engine, series), series_id).estimate
    model.network.train()(torch.randn(50, 28), torch.randn(50, 11, 8))
    np.testing.assert_array_equal(engine.predict(columns, terms_of(engine, series), series_id).estimate, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_members_equal_their_plain_networks(architecture: str) -> None:
    model = MODELS[architecture]
    columns, series, series_id = columns_for(200), series_for(9, 11), series_ids(200, 9)
    engine = Engine(model, device="cpu", draws=4, pixels=64)
    assert engine.members == 4
    found = engine.predict(columns, terms_of(engine, series), series_id, keep_members=True)
    drawn = [plain(model, columns, series, series_id, member(model, k)) for k in range(4)]
    assert found.members is not None
    assert found.std is not None
    np.testing.assert_allclose(found.members, drawn, atol=2e-5)
    np.testing.assert_allclose(found.std, np.std(drawn, axis=0, ddof=1), atol=2e-5)
    np.testing.assert_allclose(found.estimate, plain(model, columns, series, series_id), atol=1e-5)
    assert found.std.mean() > 0.003


def test_members_do_not_depend_on_tiling_blocks_or_how_many_there_are() -> None:
    model = MODELS["mmnet"]
    columns, series, series_id = columns_for(200), series_for(9, 11), series_ids(200, 9)
    whole = Engine(model, device="cpu", draws=5)
    parts = Engine(model, device="cpu", draws=3, pixels=17, series_cells=2, threads=2)
    all_ = whole.predict(columns, terms_of(whole, series), series_id, keep_members=True).members
    half = {name: values if values.size == 1 else values[100:] for name, values in columns.items()}
    some = parts.predict(half, terms_of(parts, series), series_id[100:], keep_members=True).members
    assert all_ is not None
    assert some is not None
    np.testing.assert_allclose(all_[:3, 100:], some, atol=1e-6)


def test_an_ensemble_of_checkpoints_is_the_mean_and_spread_of_its_models() -> None:
    models = [MODELS["mmnet"], checkpoint("mmnet", seed=2), checkpoint("mmnet", seed=3)]
    columns, series, series_id = columns_for(200), series_for(9, 11), series_ids(200, 9)
    alone = np.array([plain(model, columns, series, series_id) for model in models])
    engine = Engine(*models, device="cpu")
    found = engine.predict(columns, terms_of(engine, series), series_id, keep_members=True)
    assert engine.members == 3
    np.testing.assert_allclose(found.estimate, alone.mean(0), atol=1e-5)
    assert found.std is not None
    np.testing.assert_allclose(found.std, alone.std(0, ddof=1), atol=1e-5)
    both = Engine(*models[:2], device="cpu", draws=2)
    found = both.predict(columns, terms_of(both, series), series_id, keep_members=True)
    np.testing.assert_allclose(found.estimate, alone[:2].mean(0), atol=1e-5)
    drawn = [plain(m, columns, series, series_id, member(m, k)) for m in models[:2] for k in range(2)]
    assert found.members is not None
    np.testing.assert_allclose(found.members, drawn, atol=2e-5)


def test_groups_of_networks_equal_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, series, series_id = columns_for(200), series_for(9, 11), series_ids(200, 9)
    models = [MODELS["mmnet"], checkpoint("mmnet", seed=2)]
    engine = Engine(*models, device="cpu", draws=6, pixels=64)
    assert engine.days_at_once == 1
    whole = engine.predict(columns, terms_of(engine, series), series_id, keep_members=True)
    monkeypatch.setattr("mmnet_maps.model.engine._VALUES", 10 * 9 * engine.spec.d_model)  # ten networks of nine cells
    sizes = []

    def groups() -> Iterator[SeriesTerms]:
        for group in engine.encode_days(series)[0]:
            sizes.append(len(group.values))
            yield group

    parts = engine.predict(columns, groups(), series_id, keep_members=True)
    assert sizes == [10, 4]
    for name in ("estimate", "std", "members", "outside"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert whole.members is not None
    np.testing.assert_allclose(whole.std, whole.members.std(0, ddof=1), rtol=1e-4, atol=1e-7)
    assert Engine(MODELS["mmnet"], device="cpu").days_at_once == 10


def test_a_cancelled_computation_stops_before_its_next_block() -> None:
    columns, series, series_id = columns_for(900), series_for(90, 11), series_ids(900, 90)
    engine = Engine(MODELS["mmnet"], device="cpu", pixels=50, series_cells=10, threads=1)
    terms, stop, done = terms_of(engine, series), Event(), []
    block = engine._block

    def leave(*arguments: Any) -> Any:
        done.append(1)
        stop.set()
        return block(*arguments)

    engine._block = leave  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        engine.predict(columns, terms, series_id, stop=stop)
    assert len(done) == 1
    with pytest.raises(StoppedError):
        engine.encode_series(series, stop=stop)


def test_a_forked_process_is_refused_instead_of_waiting_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(MODELS["mmnet"], device="cpu")
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(RequestError, match="by spawn"):
        engine.encode_series(series_for(3, 11))


def test_one_value_stands_for_all_pixels() -> None:
    columns, series, series_id = columns_for(300), series_for(9, 11), series_ids(300, 9)
    one = {"landcover": np.array([52], np.uint8), "clay": columns["clay"][:1], "smap": columns["smap"][:1]}
    engine = Engine(MODELS["mmnet"], device="cpu", pixels=64)
    terms = terms_of(engine, series)
    found = engine.predict(columns | one, terms, series_id).estimate
    full = {name: np.repeat(values, 300) for name, values in one.items()}
    np.testing.assert_array_equal(found, engine.predict(columns | full, terms, series_id).estimate)


def test_a_factor_recalibrates_the_spread() -> None:
    model = MODELS["mmnet"]
    spec = model.spec.model_copy(update={"target": model.spec.target.model_copy(update={"std_factor": 2.5})})
    wide = Checkpoint(spec=spec, network=model.network, path=Path(), sha256=model.sha256, fingerprint="")
    columns, series, series_id = columns_for(50), series_for(5, 11), series_ids(50, 5)
    stds = []
    for one in (model, wide):
        engine = Engine(one, device="cpu", draws=3)
        stds.append(engine.predict(columns, terms_of(engine, series), series_id).std)
    np.testing.assert_allclose(stds[1], 2.5 * stds[0], rtol=1e-5)


def test_bfloat16_is_close() -> None:
    model = MODELS["mmnet"]
    columns, series, series_id = columns_for(3000), series_for(40, 11), series_ids(3000, 40)
    engine = Engine(model, device="cpu", precision="bfloat16")
    found = engine.predict(columns, terms_of(engine, series), series_id).estimate
    deviation = np.abs(found - plain(model, columns, series, series_id))
    assert 1e-5 < np.quantile(deviation, 0.5) < 0.005
    assert deviation.max() < 0.05


def test_refusals() -> None:
    with pytest.raises(RequestError, match="at least 2 members"):
        Engine(MODELS["mlp"], draws=1)
    with pytest.raises(RequestError, match="'float16'"):
        Engine(MODELS["mlp"], precision="float16")
    other = MODELS["mlp"].spec.model_copy(update={"steps": 5})
    short = Checkpoint(spec=other, network=MODELS["mlp"].network, path=Path(), sha256="", fingerprint="")
    with pytest.raises(RequestError, match="given twice"):
        Engine(MODELS["mlp"], MODELS["mlp"])
    with pytest.raises(RequestError, match="differ in 'steps'"):
        Engine(MODELS["mlp"], short)
    grouped = MODELS["mmnet by group"]
    one_group = dataclasses.replace(grouped, spec=grouped.spec.model_copy(update={"series_groups": None}))
    with pytest.raises(RequestError, match="differ in 'series_groups'"):
        Engine(grouped, one_group)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Engine(MODELS["mlp"]).device == torch.device("cpu")
    with pytest.raises(RequestError, match="no GPU"):
        Engine(MODELS["mlp"], device="cuda")
    with pytest.raises(RequestError, match="'tpu'"):
        Engine(MODELS["mlp"], device="tpu")


def test_required_columns_are_there() -> None:
    assert set(required(MODELS["mmnet"].spec.snapshot)) <= set(TYPICAL) | {"landcover"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cuda_equals_the_plain_network(architecture: str) -> None:
    model = MODELS[architecture]
    columns, series, series_id = columns_for(3000), series_for(40, 11), series_ids(3000, 40)
    series_id[::7] = -1
    engine = Engine(model, device="cuda", pixels=700, draws=2)
    found = engine.predict(columns, terms_of(engine, series), series_id)
    wanted = series_id >= 0
    expected = plain(model, columns, series, np.where(wanted, series_id, 0))
    assert np.abs(found.estimate - expected)[wanted].max() <= 1e-5
    assert np.isnan(found.estimate[~wanted]).all()
    assert next(model.network.parameters()).device.type == "cpu"
