from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from mmnet_maps.model import network
from mmnet_maps.model.network import (
    Committee,
    GaussianDropout,
    GroupedMMNet,
    MMNet,
    PositionalTable,
    Sizes,
    WaterMLP,
    build,
    draw_member,
    networks_of,
)

ARCHITECTURES = ("mmnet", "mlp", "transformer", "mlp_full", "transformer_full")
GROUPED = Sizes(snapshot=3, series=4, steps=5, groups=((3, "transformer"), (1, "mlp")), d_model=16, heads=4)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give BatchNorm statistics that matter, as after training."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


@pytest.fixture
def shapes_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn the module's shape annotations into assertions."""
    from beartype import beartype
    from jaxtyping import Float, jaxtyped

    monkeypatch.setattr(network, "Float", Float, raising=False)
    methods = {
        network.GaussianDropout: ["forward"],
        network.SeriesLayer: ["forward"],
        network.PositionalTable: ["forward"],
        network._SeriesNetwork: ["encode_series"],
        network.MMNet: ["encode_snapshot", "fuse", "forward"],
        network.StepsMLP: ["encode_series"],
        network.GroupedMMNet: ["forward"],
        network.MLP: ["forward"],
        network.Transformer: ["forward"],
    }
    for kind, names in methods.items():
        for name in names:
            monkeypatch.setattr(kind, name, jaxtyped(getattr(kind, name), typechecker=beartype))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("snapshot", "series", "steps"), [(28, 8, 11), (25, 7, 10), (3, 1, 1), (16, 6, 30)])
@pytest.mark.usefixtures("shapes_checked")
def test_shapes_hold(architecture: network.Architecture, snapshot: int, series: int, steps: int) -> None:
    model = build(architecture, Sizes(snapshot=snapshot, series=series, steps=steps))
    for training in (True, False):
        out = model.train(training)(torch.randn(5, snapshot), torch.randn(5, steps, series))
        assert out.shape == (5,)
        assert out.dtype == torch.float32


@pytest.mark.usefixtures("shapes_checked")
def test_wrong_shapes_are_noticed() -> None:
    from jaxtyping import TypeCheckError

    model = build("mmnet", Sizes(snapshot=4, series=2, steps=3)).eval()
    with pytest.raises(TypeCheckError):
        model(torch.randn(5, 4), torch.randn(6, 3, 2))


@pytest.mark.parametrize(("snapshot", "series", "steps", "count"), [(28, 8, 11, 199_681), (25, 7, 10, 199_553)])
def test_parameters_are_as_many_as_published(snapshot: int, series: int, steps: int, count: int) -> None:
    model = MMNet(Sizes(snapshot=snapshot, series=series, steps=steps))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_state_dict_has_the_names_of_the_released_code() -> None:
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    blocks = [("encoder_s", 3), ("fusion", 1), ("decoder", 2)]
    names = {f"{block}.{4 * i}.{part}" for block, n in blocks for i in range(n) for part in ("weight", "bias")}
    names |= {f"{block}.{4 * i + 1}.{part}" for block, n in blocks for i in range(n) for part in norm}
    names |= {f"encoder_d.{i}.lin.{part}" for i in range(3) for part in ("weight", "bias")}
    names |= {f"encoder_d.{i}.bn.{part}" for i in range(3) for part in norm}
    names |= {"decoder.8.weight", "decoder.8.bias", "position_enc.pe"}
    layer = "transformerencoder.layers.0."
    names |= {
        layer + "self_attn." + part for part in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    }
    pairs = [layer + part for part in ("linear1", "linear2", "norm1", "norm2")] + [
        "inlayernorm",
        "transformerencoder.norm",
    ]
    names |= {f"{name}.{part}" for name in pairs for part in ("weight", "bias")}
    assert set(MMNet(Sizes(snapshot=28, series=8, steps=11)).state_dict()) == names


@pytest.mark.parametrize(
    ("architecture", "series", "width"),
    [("mlp", 7, 32), ("mlp_full", 7, 95), ("transformer", 8, 8), ("transformer_full", 7, 32)],
)
def test_comparison_networks_have_the_papers_inputs(
    architecture: network.Architecture, series: int, width: int
) -> None:
    model = build(architecture, Sizes(snapshot=25, series=series, steps=10))
    first = next(module for module in model.modules() if isinstance(module, nn.Linear))
    assert (first.in_features, first.out_features) == (width, 32)
    head = [module.out_features for module in model.decoder if isinstance(module, nn.Linear)]
    assert head == [64, 32, 1]


@pytest.mark.parametrize(
    ("architecture", "snapshot_matters", "days_that_matter"),
    [
        ("mmnet", True, range(4)),
        ("mlp", True, [3]),
        ("mlp_full", True, range(4)),
        ("transformer", False, range(4)),
        ("transformer_full", True, range(4)),
    ],
)
def test_what_each_network_looks_at(
    architecture: network.Architecture, snapshot_matters: bool, days_that_matter: list[int]
) -> None:
    model = randomise(build(architecture, Sizes(snapshot=3, series=2, steps=4)))
    s, x = torch.randn(6, 3, requires_grad=True), torch.randn(6, 4, 2, requires_grad=True)
    model(s, x).sum().backward()
    assert (s.grad is not None and bool(s.grad.any())) == snapshot_matters
    assert x.grad is not None
    assert x.grad.abs().sum(dim=(0, 2)).nonzero().flatten().tolist() == list(days_that_matter)


@pytest.mark.parametrize(("steps", "d_model", "base"), [(11, 128, 1000), (10, 128, 1000), (30, 8, 10_000)])
def test_positional_table(steps: int, d_model: int, base: float) -> None:
    table = PositionalTable(steps, d_model, base).pe
    assert table.shape == (steps + 1, d_model)
    assert not table[0].any()
    for row in range(1, steps + 1):
        for column in range(d_model):
            angle = (row - 1) / base ** ((column - column % 2) / d_model)
            expected = math.cos(angle) if column % 2 else math.sin(angle)
            assert table[row, column].item() == pytest.approx(expected, abs=2e-6)


def test_the_order_of_days_matters_and_rows_are_independent() -> None:
    model = randomise(MMNet(Sizes(snapshot=3, series=2, steps=5)))
    s, x = torch.randn(4, 3), torch.randn(4, 5, 2)
    with torch.inference_mode():
        out = model(s, x)
        assert (model(s, x.flip(1)) - out).abs().max() > 1e-4
        torch.testing.assert_close(model(s.flip(0), x.flip(0)).flip(0), out, atol=1e-6, rtol=0)
        torch.testing.assert_close(model.fuse(model.encode_snapshot(s), model.encode_series(x)), out)


@pytest.mark.usefixtures("shapes_checked")
def test_each_group_of_series_has_a_branch_of_its_own() -> None:
    model = randomise(build("mmnet", GROUPED))
    assert isinstance(model, GroupedMMNet)
    s, x = torch.randn(6, 3), torch.randn(6, 5, 4)
    weather, lst = model.branches
    with torch.inference_mode():
        embeddings = [model.encoder_s(s), weather.encode_series(x[..., :3]), lst.encode_series(x[..., 3:])]
        assert [e.shape[1] for e in embeddings] == [16, 16, 16]
        expected = model.decoder(model.fusion(torch.cat(embeddings, 1)))[:, 0]
        torch.testing.assert_close(model(s, x), expected)
    assert model.train()(s, x).shape == (6,)


def test_stores_of_water_fill_with_rain_and_empty_by_evaporation() -> None:
    sizes = dataclasses.replace(
        GROUPED, groups=((3, "mlp"), (3, "water")), series=6, step_days=(20, 5, 1, 1, 1),
        series_scales=((9.0, 9.0),) * 3 + ((3.0, 2.0), (0.5, 0.9), (9.0, 9.0)),
    )  # fmt: skip
    branch = build("mmnet", sizes).branches[1]
    assert isinstance(branch, WaterMLP)
    x = torch.randn(40, 5, 3)
    x[:4, :, 1] = torch.tensor([[-5.0], [9.0], [-5.0], [0.0]])  # drought, flood
    x[2:4, :, 0] = -5.0  # evaporation below 0 is none: a store neither loses nor gains
    found = branch.inputs(x)
    assert torch.equal(found[:, :15], x.flatten(1))
    for row, steps in zip(found[:, 16:].tolist(), x.tolist(), strict=True):
        for capacity, share in zip((5, 10, 20, 40, 80, 160), row, strict=True):
            water = capacity / 2
            for (evaporation, rain, _), days in zip(steps, (20, 5, 1, 1, 1), strict=True):
                water += days * (math.exp(max(0.0, 0.9 * rain + 0.5)) - 1)
                water = min(capacity, water / (1 + days * max(0.0, 2 * evaporation + 3) / capacity))
            assert share == pytest.approx(4 * water / capacity - 2, abs=1e-5)
    assert (found[1, 16:] == 2).all()  # full
    assert (found[2, 16:] == 0).all()  # still half full
    assert "days" not in branch.state_dict()  # constants come from the specification


def test_a_branch_is_told_which_share_of_the_history_is_missing() -> None:
    sizes = dataclasses.replace(GROUPED, groups=((4, "mlp"),), step_days=(20, 5, 1, 1, 1))
    x = torch.randn(4, 5, 4)
    x[1, :2] = 0
    x[2, 1] = 0
    x[3, 0, :3] = 0  # a single series that happens to be average is known
    x[3, 2:] = 0  # a day is never missing
    found = build("mmnet", sizes).branches[0].inputs(x)
    assert torch.equal(found[:, :20], x.flatten(1))
    assert found[:, 20:].tolist() == [[0.0], [1.0], [0.5], [0.0]]


def test_a_committee_is_the_mean_of_its_networks() -> None:
    committee = randomise(build("mmnet", dataclasses.replace(GROUPED, networks=3)))
    assert isinstance(committee, Committee)
    s, x = torch.randn(6, 3), torch.randn(6, 5, 4)
    with torch.inference_mode():
        alone = [network(s, x) for network in networks_of(committee)]
        assert len({float(estimate[0]) for estimate in alone}) == 3
        torch.testing.assert_close(committee(s, x), (alone[0] + alone[1] + alone[2]) / 3)
    (one,) = networks_of(build("mmnet", GROUPED))
    assert isinstance(one, GroupedMMNet)


def test_a_missing_day_leaves_the_stores_unknown() -> None:
    sizes = dataclasses.replace(
        GROUPED, groups=((4, "water"),), step_days=(1,) * 5, series_scales=((3.0, 2.0), (0.5, 0.9))
    )
    x = torch.zeros(1, 5, 4)
    x[0, 2, 1] = math.nan
    assert build("mmnet", sizes).branches[0].inputs(x)[0, -6:].isnan().all()


def test_one_transformer_group_is_the_papers_network() -> None:
    sizes = Sizes(snapshot=3, series=4, steps=5, d_model=16, heads=4)
    paper = randomise(build("mmnet", sizes))
    grouped = build("mmnet", dataclasses.replace(sizes, groups=((4, "transformer"),))).eval()
    of_series = ("encoder_d", "inlayernorm", "position_enc", "transformerencoder")
    state = {f"branches.0.{k}" if k.startswith(of_series) else k: v for k, v in paper.state_dict().items()}
    grouped.load_state_dict(state)
    s, x = torch.randn(6, 3), torch.randn(6, 5, 4)
    with torch.inference_mode():
        assert torch.equal(grouped(s, x), paper(s, x))


def test_members_of_a_grouped_network_have_noise_in_every_hidden_layer() -> None:
    model = randomise(build("mmnet", GROUPED))
    before, after = model.state_dict(), draw_member(model, 3).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    read_by = {f"encoder_s.{i}.weight" for i in (4, 8)} | {f"decoder.{i}.weight" for i in (4, 8)}
    read_by |= {"branches.0.encoder_d.1.lin.weight", "branches.0.encoder_d.2.lin.weight", "branches.1.encoder.4.weight"}
    ends = {"encoder_s.9", "branches.0.encoder_d.2.bn", "branches.1.encoder.5", "fusion.1"}
    of_transformer = {name for name in changed if "transformerencoder" in name}
    assert changed - of_transformer == read_by | {f"{end}.weight" for end in ends}
    assert {name.rsplit(".", 2)[1] for name in of_transformer} == {"out_proj", "linear1", "linear2"}


def test_gaussian_dropout_has_mean_one_and_the_stated_spread() -> None:
    torch.manual_seed(3)
    layer = GaussianDropout(0.2)
    x = torch.full((400_000,), 2.0)
    noisy = layer.train()(x)
    assert noisy.mean().item() == pytest.approx(2.0, abs=0.01)
    assert noisy.std().item() == pytest.approx(2.0 * 0.25, abs=0.01)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(GaussianDropout(0.0).train()(x), x)


def test_dropout_follows_every_hidden_layer() -> None:
    model = MMNet(Sizes(snapshot=28, series=8, steps=11))
    noisy = {name for name, module in model.named_modules() if isinstance(module, GaussianDropout)}
    layers = {f"encoder_s.{i}" for i in (3, 7, 11)} | {"fusion.3", "decoder.3", "decoder.7"}
    assert noisy == layers | {f"encoder_d.{i}.dropout" for i in range(3)}
    assert model.transformerencoder.layers[0].dropout1.p == 0.2


def test_layers_have_the_given_sizes() -> None:
    sizes = Sizes(
        snapshot=5,
        series=3,
        steps=4,
        d_model=32,
        heads=4,
        layers=2,
        feedforward=48,
        dropout=0.5,
        positional_base=10,
    )
    model = build("mmnet", sizes)
    state = model.state_dict()
    assert state["transformerencoder.layers.1.linear1.weight"].shape == (48, 32)
    assert state["fusion.0.weight"].shape == (32, 64)
    assert state["position_enc.pe"][2, 2].item() == pytest.approx(math.sin(10 ** (-2 / 32)), abs=1e-6)
    assert model.transformerencoder.layers[0].self_attn.num_heads == 4
    assert {module.std for module in model.modules() if isinstance(module, GaussianDropout)} == {1.0}
