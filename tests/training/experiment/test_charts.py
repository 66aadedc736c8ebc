"""Figures of an evaluation: what the axes hold, that no text covers another, and the PNG on the disk."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.dates import num2date
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Annotation
from pyproj import Geod
from scipy import stats

from mmnet_maps.errors import InputError, OutputError, RequestError
from mmnet_maps.metrics import METRICS, report
from mmnet_maps.plots.canvas import METRIC_NAMES, write_figure
from mmnet_maps.plots.colours import KIND_COLOURS, NETWORK_COLOURS, SMAP_COLOUR, network_colours
from mmnet_maps.plots.series import StationSeries, series_figure
from mmnet_maps.training.experiment.charts import Pairs, density_figure, importance_figure
from mmnet_maps.training.experiment.station_charts import FEWEST_FOR_BOX, box_figure, grouped_box_figure, map_figure

HEAD: dict[str, Any] = {"title": "Soil moisture", "source": "Made-up numbers. " * 20}
NETWORKS = ("MMNet", "MLP", "Transformer", "MLP_full", "Transformer_full", "SMAP")
MORE = ("mmnet_uscrn", "trees", "lstm", "climatology")


def pairs(seed: int = 0, rows: int = 400, slope: float = 0.8) -> Pairs:
    random = np.random.default_rng(seed)
    observed = random.uniform(0.03, 0.45, rows)
    estimate = 0.07 + slope * observed + random.normal(0, 0.03, rows)
    found = report(np.array([f"S{k % 8}" for k in range(rows)]), estimate, observed)
    return Pairs(estimate=estimate, observed=observed, median=found["median"], stations=found["stations"])


def station(name: str = "Boulder-14-W", count: int = 120, seed: int = 0, **changes: Any) -> StationSeries:
    random = np.random.default_rng(seed)
    observed = 0.2 + 0.1 * np.sin(np.arange(count) / 9) + random.normal(0, 0.01, count)
    values: dict[str, Any] = {
        "name": name,
        "days": np.datetime64("2021-03-01") + np.arange(count),
        "observed": observed,
        "estimates": {"MMNet": observed + 0.02},
        "band": (observed - 0.02, observed + 0.06),
        "smap": observed - 0.05,
        "rain": random.gamma(0.3, 12.0, count) * (random.random(count) < 0.3),
        "metrics": {"MMNet": {"r": 0.9, "rmse": 0.021, "bias": -0.02, "ubrmse": 0.011}},
    }
    return StationSeries(**(values | changes))


def metric_values(stations: int = 30, networks: tuple[str, ...] = ("MMNet", "SMAP")) -> dict[str, dict[str, Any]]:
    random = np.random.default_rng(1)
    return {
        name: {
            "r": random.uniform(0.3, 0.95, stations),
            "rmse": random.uniform(0.02, 0.1, stations),
            "bias": random.normal(0.01, 0.04, stations),
            "ubrmse": random.uniform(0.01, 0.07, stations),
        }
        for name in networks
    }


def stations_of(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    return random.uniform(-120, -75, count), random.uniform(30, 47, count)


def groups_of(count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    texture = random.choice(["sandy clay loam", "loam", "silty clay loam", "sand"], count, p=[0.4, 0.4, 0.15, 0.05])
    return {"Soil texture": texture, "Climate": random.choice(["Cfa", "BSk"], count)}


def panels_of(figure: Figure) -> list[Axes]:
    """The axes that are seen, without colour bars and rain."""
    return [axes for axes in figure.axes if axes.get_visible() and axes.get_title("left")]


def notes(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if isinstance(text, Annotation)]


def shown_texts(figure: Figure) -> list[Any]:
    """All texts that are seen, tick labels outside of the limits left out."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        found += [axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [
                tick.label1 if tick.label1.get_visible() else tick.label2
                for tick in axis.get_major_ticks()
                if low - 1e-9 <= tick.get_loc() <= high + 1e-9
                and (tick.label1.get_visible() or tick.label2.get_visible())
            ]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


VALUES = metric_values()
LON, LAT = stations_of(30)
SHARES = {"sand": 30.0, "smap": 20.0, "bulk_density": 5.5, "pr": 44.5}
TWO = {name: {"r": 0.9, "rmse": 0.021, "bias": -0.02, "ubrmse": 0.011} for name in ("MMNet", "MLP")}
GAP = np.delete(np.datetime64("2021-05-01") + np.arange(9), 4)
FIGURES: dict[str, Callable[[], Figure]] = {
    "density": lambda: density_figure({"on-site": {"MMNet": pairs()}}, **HEAD),
    "densities": lambda: density_figure(
        {scenario: {name: pairs(k) for k, name in enumerate(NETWORKS)} for scenario in ("on-site", "cross-region")},
        **HEAD,
    ),
    "series": lambda: series_figure(
        [
            station(),
            station(estimates={"MMNet": station().observed, "MLP": station().observed * 1.1}, metrics=TWO),
            station(rain=None, band=None),
        ],
        **HEAD,
    ),
    "a week": lambda: series_figure([station(count=8, seed=4), station(count=8, days=GAP)], **HEAD),
    "maps": lambda: map_figure(
        LON, LAT, {"MMNet": VALUES["MMNet"]["r"], "SMAP": np.where(LAT > 40, np.nan, VALUES["SMAP"]["r"])}, "r", **HEAD
    ),
    "five maps": lambda: map_figure(LON, LAT, dict.fromkeys(NETWORKS[:5], VALUES["MMNet"]["bias"]), "bias", **HEAD),
    "boxes": lambda: box_figure(metric_values(networks=(*NETWORKS[:5], "mmnet_uscrn", "smap")), **HEAD),
    "boxes of baselines too": lambda: box_figure(metric_values(networks=(*NETWORKS[:5], *MORE, "smap")), **HEAD),
    "groups of six": lambda: grouped_box_figure(
        {name: found["rmse"] for name, found in metric_values(networks=(*NETWORKS[:2], *MORE, "smap")).items()},
        groups_of(30),
        "rmse",
        **HEAD,
    ),
    "groups": lambda: grouped_box_figure(
        {name: found["rmse"] for name, found in VALUES.items()}, groups_of(30), "rmse", **HEAD
    ),
    "importance": lambda: importance_figure({"on-site": SHARES, "cross-region": SHARES}, ["pr"], **HEAD),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_covers_another_or_leaves_the_sheet(name: str, tmp_path: Path) -> None:
    figure = FIGURES[name]()
    path = write_figure(figure, tmp_path / "deep" / "figure.png")
    height, width = imread(path).shape[:2]
    assert width >= 1600
    assert (width, height) == tuple((figure.get_size_inches() * 160 + 1e-6).astype(int))
    figure.set_dpi(160)
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown_texts(figure)]
    assert len(boxes) > 8
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.x1 <= width, text
        assert box.y0 >= 0, text
        assert box.y1 <= height, text
    for (one, a), (two, b) in combinations(boxes, 2):
        over = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(over) <= 2, (one, two)


def test_a_picture_replaces_its_own_kind_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    assert write_figure(importance_figure({"a": {"pr": 100.0}}, ["pr"], **HEAD), path) == path
    first = path.read_bytes()
    write_figure(importance_figure({"a": {"pr": 50.0, "smap": 50.0}}, ["pr"], **HEAD), path)
    assert path.read_bytes() != first
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]
    path.write_bytes(b"a photograph")
    with pytest.raises(OutputError, match=r"figure.png was not made by mmnet_maps and is never overwritten"):
        write_figure(importance_figure({"a": {"pr": 100.0}}, ["pr"], **HEAD), path)
    assert path.read_bytes() == b"a photograph"
    with pytest.raises(RequestError, match=r"figure.pdf is not the name of a picture; expected one that ends in .png"):
        write_figure(importance_figure({"a": {"pr": 100.0}}, ["pr"], **HEAD), tmp_path / "figure.pdf")


def test_names_are_no_formulas(tmp_path: Path) -> None:
    name = "$100 field $x_{"
    odd = station(name, estimates={name: station().observed, "MLP": station().observed}, metrics={name: TWO["MLP"]})
    write_figure(series_figure([odd], title=name, source=name), tmp_path / "a.png")
    write_figure(density_figure({name: {name: pairs()}}, title=name, source=name), tmp_path / "b.png")
    assert {file.name for file in tmp_path.iterdir()} == {"a.png", "b.png"}


# density scatter


def test_densities_hold_lines_metrics_and_equal_axes() -> None:
    found = {"on-site": {"MMNet": pairs(0), "SMAP": pairs(1)}, "off-site": {"SMAP": pairs(2, slope=0.3)}}
    figure = density_figure(found, **HEAD)
    panels = panels_of(figure)
    assert [axes.get_title("left") for axes in panels] == ["MMNet", "SMAP", "SMAP"]
    assert [len(axes.collections) for axes in panels] == [1, 1, 1]
    drawn = [found["on-site"]["MMNet"], found["on-site"]["SMAP"], found["off-site"]["SMAP"]]
    for axes, scenario, shown in zip(panels, ("on-site", "on-site", "off-site"), drawn):
        one, least = axes.get_lines()
        np.testing.assert_array_equal(one.get_xdata(), one.get_ydata())
        fit = stats.linregress(shown.observed, shown.estimate)
        np.testing.assert_allclose(least.get_ydata(), fit.intercept + fit.slope * np.asarray(least.get_xdata()))
        assert axes.get_xlim() == axes.get_ylim() == panels[0].get_xlim()
        assert axes.get_aspect() == 1
        text = notes(axes)[0].split("\n")
        assert text[:2] == [scenario, "n = 400, 8 stations"]
        for metric in METRICS:
            value = f"{shown.median[metric]:.{2 if metric == 'r' else 3}f}".replace("-", "−")
            assert f"{METRIC_NAMES[metric]} {value}" in " ".join(text)
        assert axes.collections[0].norm is panels[0].collections[0].norm
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1:1", "least squares"]


@settings(max_examples=8, deadline=None)
@given(
    values=st.lists(
        st.tuples(st.floats(-0.2, 1.2), st.one_of(st.floats(-0.2, 1.2), st.just(np.nan))), min_size=1, max_size=30
    ).filter(lambda rows: any(np.isfinite(row[1]) for row in rows))
)
def test_every_pair_is_counted_once(values: list[tuple[float, float]]) -> None:
    estimate, observed = np.array(values).T
    axes = panels_of(density_figure({"a": {"b": Pairs(estimate=estimate, observed=observed)}}, **HEAD))[0]
    count = int(np.isfinite(observed).sum())
    assert axes.collections[0].get_array().sum() == count
    assert notes(axes)[0] == f"a\nn = {count}"


def test_estimates_go_up_and_observations_to_the_right() -> None:
    found = Pairs(estimate=np.array([0.455]), observed=np.array([0.055]))
    mesh = panels_of(density_figure({"a": {"b": found}}, **HEAD))[0].collections[0]
    (row,), (column,) = np.nonzero(mesh.get_array().filled(0))
    x, y = mesh.get_coordinates()[row, column]
    assert (round(float(x), 6), round(float(y), 6)) == (0.05, 0.45)


@pytest.mark.parametrize("observed", [[0.3, 0.3], [0.0, 2.5e-225]])
def test_a_constant_observation_has_no_least_squares_line(observed: list[float]) -> None:
    found = Pairs(estimate=np.array([0.1, 0.2]), observed=np.array(observed))
    assert len(panels_of(density_figure({"a": {"b": found}}, **HEAD))[0].get_lines()) == 1


def test_densities_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="no panel to draw"):
        density_figure({"on-site": {}}, **HEAD)
    nothing = Pairs(estimate=np.array([np.nan, 0.1]), observed=np.array([0.1, np.nan]))
    with pytest.raises(InputError, match="on-site, MLP: no row has both an estimate and an observation"):
        density_figure({"on-site": {"MMNet": pairs(), "MLP": nothing}}, **HEAD)
    with pytest.raises(InputError, match=r"on-site, MLP: estimates of shape \(3,\), observations of \(2,\)"):
        density_figure({"on-site": {"MLP": Pairs(estimate=np.zeros(3), observed=np.zeros(2))}}, **HEAD)


# series


def line(axes: Axes, label: str) -> Any:
    return next(found for found in axes.get_lines() if found.get_label() == label)


def test_gaps_break_lines_and_single_days_are_dots() -> None:
    days = np.datetime64("2021-03-01") + np.array([5, 0, 1, 2, 9, 10])  # in any order
    estimate = np.array([0.5, 0.1, np.nan, 0.2, 0.9, 1.0])
    found = StationSeries(name="S", days=days, observed=estimate / 2, estimates={"MMNet": estimate})
    axes = panels_of(series_figure([found], **HEAD))[0]
    nan = np.nan
    expected = [0.1, nan, 0.2, nan, nan, 0.5, nan, nan, nan, 0.9, 1.0]
    np.testing.assert_array_equal(line(axes, "MMNet").get_ydata(), expected)
    np.testing.assert_array_equal(line(axes, "observed").get_ydata(), np.array(expected) / 2)
    np.testing.assert_array_equal(line(axes, "MMNet").get_xdata(), days.min() + np.arange(11))
    dots = next(other for other in axes.get_lines() if other.get_label().startswith("_"))
    assert np.asarray(dots.get_ydata()).tolist() == [0.1, 0.2, 0.5]
    assert axes.get_ylim()[0] <= 0
    assert axes.get_ylim()[1] >= 1.0


def test_rain_hangs_above_the_soil_moisture() -> None:
    rain = np.zeros(120)
    rain[[3, 50]] = 10, 40
    figure = series_figure([station(rain=rain)], **HEAD)
    axes, twin = figure.axes
    assert twin.get_ylabel() == "rain (mm/day)"
    assert twin.yaxis_inverted()
    assert twin.get_ylim()[1] == 0
    assert [(bar.get_height(), num2date(bar.get_center()[0]).date()) for bar in twin.patches] == [
        (10, date(2021, 3, 4)),
        (40, date(2021, 4, 20)),
    ]
    figure.draw_without_rendering()
    lowest = twin.transData.transform((0, 40))[1]
    assert axes.transData.transform((0, np.max(station().band)))[1] < lowest
    assert max(axes.get_yticks()) < axes.transData.inverted().transform((0, lowest))[1]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["observed", "SMAP", "MMNet", "90 % interval", "rain"]


@pytest.mark.parametrize("rain", [None, np.zeros(120), np.full(120, np.nan)])
def test_without_rain_there_is_no_second_axis(rain: np.ndarray | None) -> None:
    assert len(series_figure([station(rain=rain)], **HEAD).axes) == 1


def test_stations_share_dates_and_say_their_metrics() -> None:
    metrics = {"MMNet": station().metrics["MMNet"], "MLP": {"r": None, "rmse": 0.05, "bias": 0.0, "ubrmse": 0.05}}
    observed = station().observed
    two = station("Goodwell-2-E", estimates={"MMNet": observed, "MLP": observed}, metrics=metrics)
    early = station(count=30, band=None)
    first, second = panels_of(series_figure([early, two], band_label="± standard deviation", **HEAD))
    assert first.get_title("left") == "Boulder-14-W"
    assert second.get_title("left") == "Goodwell-2-E"
    assert first.get_xlim() == second.get_xlim()
    ends = [num2date(end).date() for end in first.get_xlim()]
    assert ends == [date(2021, 2, 28), date(2021, 6, 29)]
    assert len(first.collections) == 0
    assert second.collections[0].get_label() == "± standard deviation"
    assert notes(first) == ["MMNet   R 0.90   RMSE 0.021   bias −0.020   ubRMSE 0.011   m³/m³"]
    assert notes(second)[0] == "MLP   R –   RMSE 0.050   bias 0.000   ubRMSE 0.050   m³/m³"
    assert [line(second, name).get_color() for name in ("MMNet", "MLP")] == list(NETWORK_COLOURS[:2])


def test_series_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(InputError, match="no station to draw"):
        series_figure([], **HEAD)
    with pytest.raises(InputError, match="Boulder-14-W has no day to draw; leave the station out"):
        series_figure([station(count=0)], **HEAD)
    days = np.datetime64("2021-03-01") + np.array([1, 0, 0])
    with pytest.raises(InputError, match="Boulder-14-W has 2021-03-01 2 times; expected each day once"):
        series_figure([station(count=3, days=days)], **HEAD)
    with pytest.raises(InputError, match=r"Boulder-14-W: rain has shape \(3,\), its days \(120,\); expected the same"):
        series_figure([station(rain=np.zeros(3))], **HEAD)
    with pytest.raises(InputError, match=r"upper end has shape \(2,\)"):
        series_figure([station(band=(np.zeros(120), np.zeros(2)))], **HEAD)
    with pytest.raises(InputError, match="10 networks in one figure; expected 9 at most"):
        series_figure([station(estimates={f"N{k}": np.zeros(120) for k in range(10)})], **HEAD)


# maps


def test_maps_share_colours_and_ring_what_is_not_defined() -> None:
    lon, lat = stations_of(30)
    values = {name: found["r"].copy() for name, found in metric_values().items()}
    values["SMAP"][[3, 8]] = np.nan
    figure = map_figure(lon, lat, values, "r", **HEAD)
    panels = panels_of(figure)
    assert [axes.get_title("left") for axes in panels] == ["MMNet", "SMAP"]
    rings, dots = panels[1].collections
    np.testing.assert_array_equal(rings.get_offsets(), np.stack([lon, lat], axis=1)[[3, 8]])
    np.testing.assert_array_equal(dots.get_array(), np.delete(values["SMAP"], [3, 8]))
    assert dots.norm is panels[0].collections[1].norm
    assert notes(panels[1]) == [f"median {np.nanmedian(values['SMAP']):.2f}, 28 stations"]
    assert [axes.get_ylabel() for axes in figure.axes if axes not in panels] == ["R"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["not defined"]
    figure.draw_without_rendering()
    assert "120° W" in [text.get_text() for text in panels[0].get_xticklabels()]
    assert "40° N" in [text.get_text() for text in panels[0].get_yticklabels()]


def test_biases_are_coloured_about_zero_and_errors_from_zero() -> None:
    lon, lat = stations_of(30)
    for metric, values in metric_values()["MMNet"].items():
        figure = map_figure(lon, lat, {"MMNet": values}, metric, **HEAD)
        norm = panels_of(figure)[0].collections[1].norm
        inside = (values >= norm.vmin) & (values <= norm.vmax)
        assert inside.mean() >= 0.9
        assert not figure.legends
        if metric == "bias":
            assert norm.vmin == -norm.vmax
        elif metric != "r":
            assert norm.vmin == 0


def test_the_outline_is_that_of_the_48_states() -> None:
    (patch,) = panels_of(map_figure(LON, LAT, {"a": VALUES["MMNet"]["r"]}, "r", **HEAD))[0].patches
    outline = shapely.Polygon(patch.get_xy())
    assert outline.is_valid
    for place in [(-122.6, 45.5), (-112.1, 33.4), (-96.7, 40.8), (-81.4, 28.5), (-69.8, 44.3)]:  # Portland to Augusta
        assert outline.contains(shapely.Point(place))
    for place in [
        (-123.4, 48.4),
        (-110.9, 29.1),
        (-79.4, 43.7),
        (-90.0, 27.0),
        (-70.0, 40.0),
    ]:  # Victoria, Toronto, sea
        assert not outline.contains(shapely.Point(place))
    area = abs(Geod(ellps="WGS84").geometry_area_perimeter(outline)[0])
    assert area == pytest.approx(8.08e12, rel=0.03)  # m²: CONUS with its inland waters


def test_the_view_widens_for_stations_elsewhere() -> None:
    axes = panels_of(map_figure(np.array([-150.0]), np.array([65.0]), {"a": np.array([0.1])}, "bias", **HEAD))[0]
    assert axes.get_xlim()[0] < -150
    assert axes.get_ylim()[1] > 65


def test_maps_of_nothing_are_refused() -> None:
    lon, lat = stations_of(2)
    with pytest.raises(InputError, match="no station has a value of r; give at least one"):
        map_figure(lon, lat, {}, "r", **HEAD)
    with pytest.raises(InputError, match="no station has a value of r; give at least one"):
        map_figure(lon, lat, {"a": np.full(2, np.nan)}, "r", **HEAD)
    with pytest.raises(InputError, match=r"a: r of shape \(3,\), stations of \(2,\); expected the same"):
        map_figure(lon, lat, {"a": np.zeros(3)}, "r", **HEAD)
    with pytest.raises(RequestError, match="unknown metric 'mae'; expected one of r, rmse, bias, ubrmse"):
        map_figure(lon, lat, {"a": np.zeros(2)}, "mae", **HEAD)


# boxes


def medians(axes: Axes) -> list[float]:
    """Heights of the thick lines, those of boxes first."""
    of_boxes = [found.get_ydata()[0] for found in axes.get_lines() if found.get_linewidth() == 1.6]
    return [*map(float, of_boxes), *(float(found.get_segments()[0][0, 1]) for found in axes.collections)]


def test_boxes_mark_medians_and_count_stations() -> None:
    values = metric_values()
    values["SMAP"]["r"][0] = np.nan
    figure = box_figure(values, **HEAD)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "R",
        "RMSE (m³/m³)",
        "bias (m³/m³)",
        "ubRMSE (m³/m³)",
    ]
    for axes, metric in zip(figure.axes, METRICS):
        assert medians(axes) == [np.nanmedian(found[metric]) for found in values.values()]
        assert len(axes.patches) == 2
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["n = 30, 29"]
    assert figure.axes[1].get_ylim()[0] == 0


def test_every_network_has_a_colour_of_its_own_and_smap_is_grey() -> None:
    names = [*"abcdefghi", "smap"]
    colours = network_colours(names)
    assert list(colours) == names
    assert len(set(colours.values())) == 10
    assert colours["smap"] == network_colours(["smap", "a"])["smap"] == SMAP_COLOUR
    with pytest.raises(InputError, match="10 networks in one figure; expected 9 at most"):
        network_colours("abcdefghij")
    figure = grouped_box_figure(
        {name: np.linspace(0, 1, 12) for name in names}, {"class": np.repeat("x", 12)}, "ubrmse", **HEAD
    )
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names


def test_a_network_keeps_its_colour_where_only_some_are_drawn() -> None:
    found = {name: np.linspace(0, 1, 12) for name in ("b", "smap")}
    colours = network_colours(["a", "b", "smap"])
    figure = grouped_box_figure(found, {"class": np.repeat("x", 12)}, "r", colours=colours, **HEAD)
    drawn = [to_hex(patch.get_facecolor()) for patch in figure.axes[0].patches]
    assert drawn == [NETWORK_COLOURS[1], SMAP_COLOUR]
    lines = series_figure([station(estimates={"b": station().observed})], colours=colours, **HEAD).axes[0]
    assert line(lines, "b").get_color() == NETWORK_COLOURS[1]


def test_many_boxes_give_the_range_of_their_counts() -> None:
    values = metric_values(networks=NETWORKS[:4])
    values["MLP"]["r"][:2] = np.nan
    values["Transformer"]["r"][0] = np.nan
    ticks = box_figure(values, **HEAD).axes[0].get_xticklabels()
    assert [text.get_text() for text in ticks] == ["n = 28–30"]


@pytest.mark.parametrize("count", [FEWEST_FOR_BOX - 1, FEWEST_FOR_BOX])
def test_few_stations_are_dots(count: int) -> None:
    found = np.linspace(0.1, 0.4, count) ** 2
    axes = box_figure({"MMNet": {"rmse": found}}, **HEAD).axes[0]
    dots = [other for other in axes.get_lines() if other.get_marker() == "o" and other.get_markersize() > 3]
    assert len(axes.patches) == (count >= FEWEST_FOR_BOX)
    assert [np.asarray(other.get_ydata()).tolist() for other in dots] == (
        [found.tolist()] if count < FEWEST_FOR_BOX else []
    )
    assert medians(axes) == [np.median(found)]


def test_groups_are_in_order_with_their_counts() -> None:
    first = np.arange(20.0) / 100
    values = {"MMNet": first, "SMAP": np.where(np.arange(20) == 1, np.nan, first + 0.1)}
    cover = np.array(["pasture"] * 11 + ["barren"] * 3 + [""] * 6)
    cover[0] = "barren"
    band = np.array(["high"] * 12 + ["low"] * 8)
    groups = {"Land cover": cover, "Elevation": band}
    figure = grouped_box_figure(values, groups, "rmse", order={"Elevation": ["low", "middle", "high"]}, **HEAD)
    covers, bands = panels_of(figure)
    assert [text.get_text() for text in covers.get_xticklabels()] == ["pasture\nn = 10, 9", "barren\nn = 4"]
    assert [text.get_text() for text in bands.get_xticklabels()] == ["low\nn = 8", "high\nn = 12, 11"]
    expected = [np.nanmedian(found[cover == name]) for name in ("pasture", "barren") for found in values.values()]
    assert medians(covers) == expected
    assert (len(covers.patches), len(bands.patches)) == (2, 4)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["MMNet", "SMAP"]
    assert not grouped_box_figure({"MMNet": first}, groups, "rmse", **HEAD).legends


def test_boxes_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="no metric to draw"):
        box_figure({"MMNet": {}}, **HEAD)
    with pytest.raises(RequestError, match="unknown metric 'mae'"):
        box_figure({"MMNet": {"mae": np.zeros(3)}}, **HEAD)
    with pytest.raises(InputError, match="no station has a value of rmse"):
        grouped_box_figure({}, {"Climate": np.array(["Cfa"])}, "rmse", **HEAD)
    with pytest.raises(InputError, match="no category to group by; give at least one"):
        grouped_box_figure({"MMNet": np.zeros(3)}, {}, "rmse", **HEAD)
    with pytest.raises(InputError, match=r"Climate: classes of shape \(2,\), rmse of \(3,\); expected the same"):
        grouped_box_figure({"MMNet": np.zeros(3)}, {"Climate": np.array(["Cfa"] * 2)}, "rmse", **HEAD)


# importance


def test_shares_are_bars_in_one_order_coloured_by_kind() -> None:
    figure = importance_figure(
        {"on-site": {"sand": 30.0, "pr": 70.0}, "off-site": {"pr": 20.0, "smap": 65.0, "sand": 15.0}}, ["pr"], **HEAD
    )
    first, second = panels_of(figure)
    assert [text.get_text() for text in first.get_yticklabels()] == ["pr", "smap", "sand"]
    assert first.yaxis_inverted()
    bars = {round(bar.get_y() + 0.36): (bar.get_width(), to_hex(bar.get_facecolor())) for bar in first.patches}
    assert bars == {0: (70.0, KIND_COLOURS["series"]), 2: (30.0, KIND_COLOURS["snapshot"])}
    assert [bar.get_width() for bar in second.patches] == [20.0, 65.0, 15.0]
    assert {text.get_text() for text in second.texts} >= {"20.0", "65.0", "15.0"}
    assert notes(first) == ["of the day 30 %, series 70 %"]
    assert first.get_xlim() == second.get_xlim()
    assert first.get_xlim()[1] > 70
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["of the day", "series of days"]


def test_importance_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="no variable to draw"):
        importance_figure({"on-site": {}}, [], **HEAD)
    for share in (-1.0, np.nan):
        with pytest.raises(InputError, match=f"on-site: the share of pr is {share}; expected percent from 0"):
            importance_figure({"on-site": {"pr": share}}, [], **HEAD)
