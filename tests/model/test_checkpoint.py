from __future__ import annotations

import errno
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from mmnet_maps.errors import OutputError, RequestError
from mmnet_maps.model.checkpoint import Checkpoint, check_golden, load_checkpoint, restore, save_checkpoint
from mmnet_maps.model.features import Feature
from mmnet_maps.model.spec import ModelSpec

FIELDS = [  # in the order in which people read them
    *("format", "name", "architecture", "d_model", "heads", "layers", "feedforward", "dropout", "positional_base"),
    *("snapshot", "series", "steps", "includes_day", "step_days", "may_lack"),
    *("snapshot_mean", "snapshot_std", "series_mean", "series_std"),
    *("snapshot_range", "series_range", "inputs", "target", "training", "weights_sha256"),
]


def small_spec(**changes: Any) -> ModelSpec:
    fields: dict[str, Any] = {
        "name": "small",
        "architecture": "mmnet",
        "d_model": 16,
        "heads": 4,
        "feedforward": 24,
        "snapshot": (
            Feature(name="smap", encoding="identity"),
            Feature(name="landcover", encoding="onehot", classes=("forest", "cropland")),
            Feature(name="doy", encoding="sincos"),
        ),
        "series": (Feature(name="pr", encoding="log1p"), Feature(name="lst", encoding="identity")),
        "steps": 4,
        "includes_day": True,
        "snapshot_mean": (0.2, 0.5, 0.5, 0.0, 0.0),
        "snapshot_std": (0.1, 0.5, 0.5, 0.7, 0.0),
        "series_mean": (0.3, 290.0),
        "series_std": (0.5, 11.0),
        "snapshot_range": ((0.0, 0.5), (0.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (-1.0, 1.0)),
        "series_range": ((0.0, 5.0), (250.0, 340.0)),
        "inputs": {"smap": "SMAP L4", "lst": "MOD11A1"},
        "training": {"data": "random numbers", "metrics": {"r": 0.5}},
    }
    return ModelSpec(**(fields | changes))


def saved(folder: Path, **changes: Any) -> Checkpoint:
    spec = small_spec(**changes)
    draw = np.random.default_rng(0)
    golden = draw.standard_normal((7, 5), np.float32), draw.standard_normal((7, 4, 2), np.float32)
    torch.manual_seed(0)
    return save_checkpoint(folder, spec, spec.network(), golden)


def refusal(folder: str | Path) -> str:
    with pytest.raises(RequestError) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change ``model.json``."""
    fields = json.loads((folder / "model.json").read_text())
    change(fields)
    (folder / "model.json").write_text(json.dumps(fields))


def replace_weights(folder: Path, data: bytes) -> None:
    """Replace the weights by other bytes with a matching hash, as a careful forger would."""
    (folder / "weights.safetensors").write_bytes(data)
    rewrite(folder, lambda fields: fields.update(weights_sha256=hashlib.sha256(data).hexdigest()))


def change_state(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = safetensors.torch.load_file(folder / "weights.safetensors")
    change(state)
    replace_weights(folder, safetensors.torch.save(state))


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    spec = small_spec()
    network = spec.network().train()
    s, x = torch.randn(9, 5), torch.randn(9, 4, 2)
    network(s, x)  # moves the running statistics
    written = save_checkpoint(tmp_path / "deep" / "model", spec, network, (s.numpy(), x.numpy()))
    assert network.training
    loaded = load_checkpoint(str(tmp_path / "deep" / "model"))
    assert not loaded.network.training
    with torch.inference_mode():
        assert torch.equal(loaded.network(s, x), network.eval()(s, x))
    data = (loaded.path / "weights.safetensors").read_bytes()
    assert loaded.sha256 == loaded.spec.weights_sha256 == hashlib.sha256(data).hexdigest()
    assert loaded.spec == spec.model_copy(update={"weights_sha256": loaded.sha256})
    assert (written.fingerprint, written.path, written.spec) == (loaded.fingerprint, loaded.path, loaded.spec)
    assert check_golden(loaded) == 0.0
    assert sorted(item.name for item in loaded.path.iterdir()) == [
        "golden.npz",
        "model.json",
        "stac.json",
        "weights.safetensors",
    ]
    assert [item.name for item in loaded.path.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("architecture", ["mlp", "transformer", "mlp_full", "transformer_full"])
def test_the_comparison_networks_are_kept_too(tmp_path: Path, architecture: str) -> None:
    loaded = saved(tmp_path / "m", architecture=architecture)
    assert loaded.spec.architecture == architecture
    assert check_golden(load_checkpoint(tmp_path / "m")) == 0.0


def test_a_grouped_network_is_kept_too(tmp_path: Path) -> None:
    groups = ({"features": ("pr",), "branch": "transformer"}, {"features": ("lst",), "branch": "mlp"})
    loaded = saved(tmp_path / "m", series_groups=groups)
    assert list(json.loads((tmp_path / "m" / "model.json").read_text())) == [
        *FIELDS[:11],
        "series_groups",
        *FIELDS[11:],
    ]
    assert check_golden(loaded) == 0.0
    rewrite(tmp_path / "m", lambda fields: fields.pop("series_groups"))
    assert "has no 'encoder_d.0.bn.bias'" in refusal(tmp_path / "m")


def test_model_json_reads_well(tmp_path: Path) -> None:
    text = (saved(tmp_path / "m", snapshot_range=None).path / "model.json").read_text()
    fields = json.loads(text)
    assert list(fields) == FIELDS
    assert fields["snapshot"][1] == {"name": "landcover", "encoding": "onehot", "classes": ["forest", "cropland"]}
    assert fields["series"][0] == {"name": "pr", "encoding": "log1p"}
    assert fields["snapshot_range"] is None
    assert fields["series_range"] == [[0.0, 5.0], [250.0, 340.0]]
    assert fields["target"] == {"name": "soil_moisture", "units": "m3 m-3", "residual_of": None, "std_factor": 1.0}
    assert '    {"name": "doy", "encoding": "sincos"}\n' in text


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    saved(tmp_path / "m")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_checkpoint(tmp_path / "m")
    assert torch.equal(torch.rand(1), expected)


def test_the_fingerprint_follows_weights_and_specification(tmp_path: Path) -> None:
    first = saved(tmp_path / "m")
    same = saved(tmp_path / "n")
    rewrite(same.path, lambda fields: fields["target"].update(std_factor=1.5))
    other = load_checkpoint(same.path)
    assert first.fingerprint == same.fingerprint != other.fingerprint
    change_state(first.path, lambda state: state["fusion.0.bias"].add_(1))
    assert load_checkpoint(first.path).fingerprint not in (first.fingerprint, other.fingerprint)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    saved(tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    assert f"{name} cannot be read" in refusal(tmp_path / "m")


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
@pytest.mark.parametrize("length", [0, 5, -1, -100])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, length: int) -> None:
    path = saved(tmp_path / "m").path / name
    path.write_bytes(path.read_bytes().rstrip()[:length])
    assert name in refusal(tmp_path / "m")


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path / "m").path / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert "damaged or changed" in refusal(tmp_path / "m")


class Evil:
    """An object that leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("hash_fits", [False, True])
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_posing_as_weights_is_not_opened(tmp_path: Path, hash_fits: bool, kind: str) -> None:
    path = saved(tmp_path / "m").path / "weights.safetensors"
    mark = tmp_path / "executed"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Evil(mark)))
    else:
        torch.save({"model_state": Evil(mark)}, path)
    if hash_fits:
        replace_weights(tmp_path / "m", path.read_bytes())
    assert "looks like a pickle" in refusal(tmp_path / "m")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda state: state.pop("decoder.8.bias"), "has no 'decoder.8.bias'"),
        (lambda state: state.update(extra=torch.zeros(1)), "unknown 'extra'"),
        (lambda state: state.update({"encoder_s.0.weight": torch.zeros(4, 6)}), r"float32 (4, 6)"),
        (lambda state: state.update({"position_enc.pe": torch.zeros(1, 5, 16)}), "position_enc.pe"),
        (lambda state: state.update({"decoder.8.bias": torch.zeros(1, dtype=torch.float64)}), "float64 (1,)"),
        (lambda state: state["fusion.0.bias"].fill_(torch.nan), "NaN"),
        (lambda state: state["fusion.1.running_var"].fill_(torch.inf), "infinite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: Callable[..., object], word: str) -> None:
    saved(tmp_path / "m")
    change_state(tmp_path / "m", change)
    assert word in refusal(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": 2}, "format"),
        ({"architecture": "resnet"}, "architecture"),
        ({"name": "../up"}, "name"),
        ({"steps": 0}, "steps"),
        ({"steps": "4"}, "steps"),
        ({"steps": 5}, "5 steps"),
        ({"d_model": 10**9}, "d_model"),
        ({"d_model": 18}, "multiple"),
        ({"dropout": 1.0}, "dropout"),
        ({"includes_day": "no"}, "includes_day"),
        ({"snapshot": []}, "snapshot"),
        ({"snapshot": {"name": "smap"}}, "list of features"),
        ({"series": ["pr", "lst"]}, "feature needs name"),
        (
            {"series": [{"name": "pr", "encoding": "log1p", "scale": 2}, {"name": "lst", "encoding": "identity"}]},
            "scale",
        ),
        ({"series": [{"name": "pr", "encoding": "log2"}, {"name": "lst", "encoding": "identity"}]}, "log2"),
        ({"series": [{"name": "pr", "encoding": ["log1p"]}, {"name": "lst", "encoding": "identity"}]}, "encoding"),
        ({"series": [{"name": 1, "encoding": "log1p"}, {"name": "lst", "encoding": "identity"}]}, "text"),
        ({"series": [{"name": "pr", "encoding": "log1p"}, {"name": "pr", "encoding": "identity"}]}, "twice"),
        ({"series_mean": [0.0]}, "series_mean has 1 entries for 2"),
        ({"series_mean": [0.0, None]}, "series_mean"),
        ({"snapshot_std": [1.0] * 6}, "snapshot_std has 6 entries for 5"),
        ({"snapshot_std": [1.0, 1.0, 1.0, 1.0, -1.0]}, "negative"),
        ({"series_range": [[0.0, 1.0]]}, "series_range has 1"),
        ({"series_range": [[0.0, 1.0], [2.0, 1.0]]}, "above its highest"),
        ({"target": {"name": "soil_moisture", "unit": "m3"}}, "target.unit"),
        ({"surprise": 1}, "surprise"),
        ({"weights_sha256": ""}, "states none"),
    ],
)
def test_a_specification_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    saved(tmp_path / "m")
    rewrite(tmp_path / "m", lambda fields: fields.update(change))
    assert word in refusal(tmp_path / "m")


@pytest.mark.parametrize("field", ["snapshot", "series", "steps", "includes_day", "snapshot_mean", "name"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    saved(tmp_path / "m")
    rewrite(tmp_path / "m", lambda fields: fields.pop(field))
    assert f"{field}: Field required" in refusal(tmp_path / "m")


def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> Path:
    package = tmp_path / "site" / "mmnet_maps"
    package.mkdir(parents=True)
    monkeypatch.setattr("mmnet_maps.resources._PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    if layout == "wheel":
        return package / "data" / "models"
    (tmp_path / "site" / "pyproject.toml").touch()
    return tmp_path / "site" / "models"


@pytest.mark.parametrize("layout", ["wheel", "checkout"])
def test_a_bare_name_finds_the_packaged_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    models = packaged(tmp_path, monkeypatch, layout)
    saved(models / "mmnet-one")
    assert load_checkpoint("mmnet-one").path == models / "mmnet-one"
    for unknown in ("mmnet-three", "some/mmnet-one", "x" * 300):
        assert "packaged models: mmnet-one" in refusal(unknown)
    saved(tmp_path / "mmnet-one", name="mine")
    assert load_checkpoint("mmnet-one").spec.name == "mine"


def test_models_beside_an_installed_package_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged(tmp_path, monkeypatch, "wheel")
    saved(tmp_path / "site" / "models" / "foreign")
    assert "packaged models: none" in refusal("foreign")


def test_a_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model_best.pth"
    torch.save({}, path)
    assert "mmnet convert" in refusal(path)


def test_replacing_a_checkpoint_keeps_its_card(tmp_path: Path) -> None:
    first = saved(tmp_path / "m")
    (first.path / "README.md").write_text("# Card")
    second = saved(tmp_path / "m", name="second")
    assert second.spec.name == "second"
    assert (second.path / "README.md").read_text() == "# Card"
    network = second.spec.network()
    assert not (save_checkpoint(tmp_path / "m", second.spec, network).path / "golden.npz").exists()


def test_a_folder_that_is_no_checkpoint_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        saved(tmp_path / "m")
    assert [item.name for item in (tmp_path / "m").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("text")
    with pytest.raises(OutputError, match="not a folder"):
        saved(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written"):
        saved(tmp_path / "file" / "below")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "m"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert saved(tmp_path / "m").path == tmp_path / "m"


@pytest.mark.parametrize("call", ["write_bytes", "write_text", "rename"])
@pytest.mark.parametrize("nth", [1, 2])
def test_the_old_checkpoint_survives_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, nth: int
) -> None:
    first = saved(tmp_path / "m")
    real, count = getattr(Path, call), 0

    def full_disk(self: Path, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, call, full_disk)
        if call.startswith("write") and nth == 2:  # each is called once a checkpoint
            assert saved(tmp_path / "m").fingerprint == first.fingerprint
            return
        with pytest.raises(OutputError, match="No space left on device"):
            saved(tmp_path / "m", name="second")
    assert load_checkpoint(tmp_path / "m").fingerprint == first.fingerprint
    assert [item.name for item in tmp_path.iterdir()] == ["m"]


def test_a_network_of_another_size_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="steps"):
        save_checkpoint(tmp_path / "m", small_spec(), small_spec(steps=6).network())
    spoilt = small_spec().network()
    torch.nn.init.constant_(spoilt.decoder[8].bias, torch.nan)
    with pytest.raises(RequestError, match="NaN"):
        save_checkpoint(tmp_path / "m", small_spec(), spoilt)
    assert not list(tmp_path.iterdir())


def test_restore_gives_the_network_of_a_state_dict() -> None:
    spec = small_spec()
    network = spec.network().eval()
    s, x = torch.randn(3, 5), torch.randn(3, 4, 2)
    with torch.inference_mode():
        assert torch.equal(restore(spec, network.state_dict(), "memory")(s, x), network(s, x))


def test_golden_measures_a_drift(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m").path
    change_state(folder, lambda state: state["decoder.8.bias"].add_(0.25))
    assert check_golden(load_checkpoint(folder)) == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"output": np.zeros(3, np.float32)},
        {"output": np.full(7, np.nan, np.float32)},
        {"snapshot": np.zeros((7, 6), np.float32)},
        {"snapshot": np.zeros((7, 5))},
        {"series": np.array(["a"])},
        {"series": np.array([{}], dtype=object)},
    ],
)
def test_a_broken_golden_file_is_refused(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    model = saved(tmp_path / "m")
    path = model.path / "golden.npz"
    with np.load(path) as archive:
        fields = dict(archive)
    np.savez(path, **(fields | change))
    with pytest.raises(RequestError, match=r"golden\.npz") as caught:
        check_golden(model)
    assert "\n" not in str(caught.value)


def test_a_missing_or_truncated_golden_file_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path / "m")
    path = model.path / "golden.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RequestError, match=r"golden\.npz"):
        check_golden(model)
    path.unlink()
    with pytest.raises(RequestError, match=r"golden\.npz"):
        check_golden(model)
