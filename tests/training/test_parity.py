"""The deviation report compared with numbers computed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnet_maps.training.parity as parity_module
from analytic import GROUPS, make_model
from mmnet_maps.model.checkpoint import load_checkpoint, read_golden, save_checkpoint
from mmnet_maps.model.engine import Engine
from mmnet_maps.training.parity import format_parity, parity, reference


@pytest.mark.parametrize(
    ("architecture", "groups"), [("mmnet", None), ("mmnet", GROUPS), ("mlp_full", None), ("transformer_full", None)]
)
def test_every_mode_is_reported_and_float32_is_exact(
    architecture: str, groups: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity_module, "_PIXELS", 500)
    monkeypatch.setattr(parity_module, "tile_geobox", lambda name: TINY)
    model = load_checkpoint(make_model(tmp_path / "m", architecture, groups=groups))
    draw = np.random.default_rng(0)
    spec = model.spec
    snapshot = draw.standard_normal((40, len(spec.snapshot_mean))).astype(np.float32)
    snapshot[:, 6:14] = np.eye(8)[draw.integers(0, 8, 40)]  # one-hot, with mean 0 and standard deviation 1
    series = draw.standard_normal((40, spec.steps, len(spec.series_mean))).astype(np.float32)
    model = save_checkpoint(tmp_path / "m", spec, model.network, (snapshot, series))
    found = list(parity(model, quiet=True))
    assert [(one.precision, one.inputs) for one in found if one.device == "cpu"] == [
        ("float32", "golden"),
        ("bfloat16", "golden"),
        ("float32", "tile h06v03"),
        ("bfloat16", "tile h06v03"),
    ]
    for one in found:
        assert 0 <= one.mean <= one.p999 <= one.largest
        if one.precision == "float32":
            assert one.largest <= 1e-5
        else:
            assert 1e-6 < one.largest < 0.1
    assert [one.count for one in found][:2] == [40, 40]
    assert len(format_parity(found).splitlines()) == 2 + len(found)


def test_the_shipped_model_keeps_its_digits_in_bfloat16() -> None:
    model = load_checkpoint("mmnet-uscrn")
    golden = read_golden(model)
    assert golden is not None
    engine = Engine(model, device="cpu", precision="bfloat16")
    difference = np.abs(engine.predict_standardised(*golden) - reference(model, *golden))
    assert np.quantile(difference, 0.999) <= 0.003
    assert difference.max() <= 0.01


class _Tiny:
    """A small area: some fields near Moses Lake."""

    def __init__(self) -> None:
        from mmnet_maps.grid.area import read_aoi

        self.geographic_extent = self
        self.geom = read_aoi("-119.50,47.00,-119.46,47.03").geometry


TINY = _Tiny()
