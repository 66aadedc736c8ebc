from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mmnet_maps.errors import RequestError
from mmnet_maps.model.features import Feature, encoded_columns
from mmnet_maps.model.network import MLP, GroupedMMNet
from mmnet_maps.model.spec import ModelSpec, Profile, Target, profile
from mmnet_maps.resources import packaged
from mmnet_maps.settings import first_error


def small_spec(**changes: Any) -> ModelSpec:
    fields: dict[str, Any] = {
        "name": "small",
        "architecture": "mlp",
        "snapshot": (Feature(name="doy", encoding="sincos"), Feature(name="smap", encoding="identity")),
        "series": (Feature(name="pr", encoding="log1p"),),
        "steps": 4,
        "includes_day": False,
        "snapshot_mean": (0.0, 0.0, 0.2),
        "snapshot_std": (0.7, 0.7, 0.1),
        "series_mean": (0.3,),
        "series_std": (0.5,),
    }
    return ModelSpec(**(fields | changes))


def test_json_and_back() -> None:
    full = small_spec(snapshot_range=((-1, 1), (-1, 1), (0, 0.5)), target=Target(residual_of="smap", std_factor=1.2))
    for there in (small_spec(), full):
        assert ModelSpec.model_validate_json(there.to_json(), strict=True) == there


def test_the_network_has_the_stated_sizes() -> None:
    network = small_spec(d_model=32, heads=8, dropout=0.5).network()
    assert isinstance(network, MLP)
    assert network.encoder[0].weight.shape == (8, 4)
    assert network.eval()(torch.zeros(2, 3), torch.zeros(2, 4, 1)).shape == (2,)


@pytest.mark.parametrize("layout", ["wheel", "checkout", "neither"])
def test_where_packaged_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    package = tmp_path / "mmnet_maps"
    monkeypatch.setattr("mmnet_maps.resources._PACKAGE", package)
    if layout == "wheel":
        (package / "data" / "configs").mkdir(parents=True)
    if layout != "neither":
        (tmp_path / "pyproject.toml").touch()
    expected = tmp_path / "configs" if layout == "checkout" else package / "data" / "configs"
    assert packaged("configs") == expected


def test_not_a_number_cannot_be_written_into_a_specification() -> None:
    for change in ({"training": {"r": float("nan")}}, {"series_mean": (float("inf"), 0.0)}):
        with pytest.raises(ValidationError, match="finite") as caught:
            small_spec(**change)
        assert "\n" not in first_error(caught.value)


def test_the_profiles_are_those_of_the_paper_and_the_released_code() -> None:
    paper, released = profile("paper"), profile("released")
    eight = ["shrubland", "grassland", "barren", "wetland", "forest", "developed", "cropland", "pasture"]
    ground = ["doy", "latitude", "longitude", "elevation", "slope", "aspect", "clay", "bulk_density", "sand", "smap"]
    ground += ["ndvi", "evi", "ndwi", "lswi"]
    columns = [f"landcover_{name}" for name in eight] + ground
    assert list(encoded_columns(released["snapshot"])) == [*columns, "nsdsi", "cr", "dpsvim", "pol", "rvim", "vvvh"]
    assert list(encoded_columns(paper["snapshot"])) == [*columns, "cr", "dpsvim", "pol"]
    assert list(encoded_columns(released["series"])) == ["eto", "etr", "pr", "sph", "srad", "vpd", "vs", "lst"]
    assert list(encoded_columns(paper["series"])) == ["eto", "pr", "sph", "srad", "vpd", "vs", "lst"]
    assert (released["steps"], released["includes_day"]) == (11, True)
    assert (paper["steps"], paper["includes_day"]) == (10, False)
    encodings = {item.name: item.encoding for item in (*paper["snapshot"], *released["series"])}
    assert {name for name, encoding in encodings.items() if encoding == "half_cosine"} == {"doy", "aspect"}
    assert Profile(**paper).architecture == "mmnet"
    with pytest.raises(RequestError, match="paper, released"):
        profile("best")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": {"units": "percent"}}, "target.units: Input should be 'm3 m-3', not 'percent'"),
        ({"target": {"name": "vwc"}}, "target.name: Input should be 'soil_moisture', not 'vwc'"),
        (
            {"target": {"residual_of": "rain"}},
            "target.residual_of: 'rain' is no variable of a stack; expected one, such as smap",
        ),
        ({"target": {"std_factor": 1e300}}, "target.std_factor: Input should be less than or equal to 1000000, not 1e"),
        ({"snapshot_mean": (0, 1e308, 0)}, "snapshot_mean of doy_cos is 1e+308; expected a number that float32"),
        ({"series_std": (1e30,)}, "series_std of pr is 1e+30; expected a number that float32"),
        ({"series_std": (1e-300,)}, "series_std of pr is 1e-300; expected 0, or a number that float32"),
        ({"series_range": ((-1e308, 0),)}, "series_range of pr is -1e+308; expected a number"),
        ({"snapshot": [{"name": "doy", "encoding": "x"}]}, "snapshot: feature 'doy' has the unknown encoding 'x'"),
        ({"series": [{"name": "pr", "encoding": "log1p"}] * 2}, "series has the column 'pr' twice"),
        ({"series": 5}, "series: expected a list of features, not 5"),
    ],
)
def test_what_no_map_can_hold_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        small_spec(**change)
    assert first_error(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("step_days", "message"),
    [((1, 1), "2 entries for 3 steps"), ((1, 1, 5), "the last step must be one day")],
)
def test_steps_that_do_not_fit(step_days: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small_spec(steps=3, step_days=step_days)


@pytest.mark.parametrize("name", ["landcover", "pr", "nothing"])
def test_what_may_lack_is_a_plain_snapshot_variable(name: str) -> None:
    assert small_spec(may_lack=("smap",)).may_lack == ("smap",)
    with pytest.raises(ValidationError, match=f"may_lack names '{name}', which is no snapshot variable"):
        small_spec(may_lack=(name,))


GROUPED = {
    "architecture": "mmnet",
    "series": ({"name": "pr", "encoding": "log1p"}, *({"name": n, "encoding": "identity"} for n in ("vpd", "lst"))),
    "series_mean": (0.3, 1.0, 290.0),
    "series_std": (0.5, 1.0, 11.0),
    "series_groups": ({"features": ("pr", "vpd"), "branch": "transformer"}, {"features": ("lst",), "branch": "mlp"}),
}


def test_groups_of_series() -> None:
    spec = small_spec(**GROUPED)
    assert [[feature.name for feature in group] for group in spec.feature_groups] == [["pr", "vpd"], ["lst"]]
    assert small_spec().feature_groups == (small_spec().series,)
    assert isinstance(spec.network(), GroupedMMNet)
    assert ModelSpec.model_validate_json(spec.to_json(), strict=True) == spec
    assert '    {"features": ["lst"], "branch": "mlp"}\n' in spec.to_json()
    assert "series_groups" not in small_spec().to_json()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([["pr", "vpd"]], "series_groups hold pr, vpd; expected every series once, in their order: pr, vpd, lst"),
        ([["lst"], ["pr", "vpd"]], "series_groups hold lst, pr, vpd; expected"),
        ([["pr", "vpd"], ["lst", "lst"]], "series_groups hold pr, vpd, lst, lst; expected"),
        ([], "series_groups: Tuple should have at least 1 item"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups: list[list[str]], message: str) -> None:
    asked = tuple({"features": tuple(names), "branch": "mlp"} for names in groups)
    with pytest.raises(ValidationError) as caught:
        small_spec(**GROUPED | {"series_groups": asked})
    assert first_error(caught.value).startswith(message)


def test_a_variable_belongs_to_one_group() -> None:
    """Its cells, which a map looks up by variable, are those of that group."""
    series = tuple(Feature(name=name, encoding="identity") for name in ("smap", "pr", "smap_series"))
    columns = {f"series_{part}": (0.0,) * 3 for part in ("mean", "std")}
    groups = tuple({"features": names, "branch": "mlp"} for names in (("smap", "pr"), ("smap_series",)))
    with pytest.raises(ValidationError, match="read 'smap' in two groups; put the series that need it into one"):
        small_spec(architecture="mmnet", series=series, series_groups=groups, **columns)
    together = ({"features": ("smap", "pr", "smap_series"), "branch": "mlp"},)
    spec = small_spec(architecture="mmnet", series=series, series_groups=together, **columns)
    assert spec.feature_groups == (series,)


def test_only_mmnet_has_groups() -> None:
    with pytest.raises(ValidationError, match="architecture mmnet alone, not mlp"):
        small_spec(**GROUPED | {"architecture": "mlp"})


@pytest.mark.parametrize("first", [("pr", "eto"), ("vpd", "pr"), ("pr",)])
def test_a_group_with_stores_of_water_begins_with_evapotranspiration_and_rain(first: tuple[str, ...]) -> None:
    encodings = {"eto": "identity", "pr": "log1p", "vpd": "identity"}
    columns = {f"series_{part}": (1.0,) * len(first) for part in ("mean", "std")}
    asked = {
        "architecture": "mmnet",
        "series": tuple(Feature(name=name, encoding=encodings[name]) for name in first),
        "series_groups": ({"features": first, "branch": "water"},),
    }
    with pytest.raises(ValidationError, match="expected a group that begins with eto, of encoding identity, and pr"):
        small_spec(**asked | columns)


def test_days_of_steps() -> None:
    spec = small_spec(steps=4, step_days=(10, 1, 5, 1))
    assert (spec.days, spec.needed_days) == (17, 7)  # from the oldest step of one day on
    assert spec.windows == ((0, 10), (10, 11), (11, 16), (16, 17))
    assert (small_spec(steps=4).days, small_spec(steps=4).needed_days) == (4, 4)
