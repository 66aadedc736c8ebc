"""The pictures: they appear whole, hold what they are given, and leave other people's files alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmnet_maps.errors import OutputError
from mmnet_maps.training.calibration import Reliability, judge
from mmnet_maps.training.explain import Importance
from mmnet_maps.training.plots import draw_importance, draw_reliability


def importance(variables: int = 6, steps: int = 11, weight: float = 1.0) -> Importance:
    random = np.random.default_rng(0)
    names = [f"variable_{k}" for k in range(variables)]
    values = weight * random.uniform(1, 9, variables)
    return {
        "model": "small",
        "rows": 100,
        "baselines": 20,
        "seed": 0,
        "expectation": 0.2,
        "incompleteness": 0.001,
        "variables": [
            {"name": name, "kind": "series" if k % 2 else "snapshot", "mean_absolute": value / 1000, "share": value}
            for k, (name, value) in enumerate(zip(names, values.tolist(), strict=True))
        ],
        "days": [{"days_before": steps - 1 - k, "mean_absolute": 0.01, "share": 100 / steps} for k in range(steps)],
        "by_day": {name: random.uniform(0, 0.01, steps).tolist() for name in names[1::2]},
    }


def reliability(scale: float) -> Reliability:
    random = np.random.default_rng(0)
    std = random.uniform(0.01, 0.05, 800)
    return judge(np.repeat(["a", "b"], 400), scale * std * random.standard_normal(800), np.zeros(800), std)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert "mmnet_maps" in image.info["Software"]
        return np.asarray(image.convert("RGB"))


def test_pictures_are_the_same_for_the_same_and_others_for_others(tmp_path: Path) -> None:
    draw_importance(importance(), tmp_path / "a.png")
    draw_importance(importance(), tmp_path / "b.png")
    draw_importance(importance(variables=30, steps=60), tmp_path / "c.png")
    a, b, c = (pixels(tmp_path / f"{name}.png") for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert c.shape[0] > a.shape[0], "more variables need more room"
    draw_reliability(reliability(1), tmp_path / "d.png", model="small")
    draw_reliability(reliability(5), tmp_path / "e.png", model="small")
    assert (pixels(tmp_path / "d.png") != pixels(tmp_path / "e.png")).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.png" for name in "abcde"]


def test_bars_are_as_long_as_the_shares(tmp_path: Path) -> None:
    found = importance()
    draw_importance(found, tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png")[:, : 1875 * 45 // 100]  # the left panel alone
    lengths = []
    for colour in ((0xB6, 0x80, 0x3A), (0x00, 0x56, 0x8A)):
        mine = (picture == colour).all(-1).sum(1)
        lengths += [int(run.max()) for run in np.split(mine, np.flatnonzero(np.diff(mine > 0)) + 1) if run.max() > 40]
    shares = sorted(row["share"] for row in found["variables"])
    np.testing.assert_allclose(np.sort(lengths) / max(lengths), np.array(shares) / max(shares), atol=0.02)


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    path.write_bytes(b"a picture of mine")
    with pytest.raises(OutputError, match="never overwritten"):
        draw_importance(importance(), path)
    with pytest.raises(OutputError, match="never overwritten"):
        draw_reliability(reliability(2), path, model="small")
    assert path.read_bytes() == b"a picture of mine"
    with pytest.raises(OutputError, match="cannot write"):
        draw_importance(importance(), path / "below.png")
