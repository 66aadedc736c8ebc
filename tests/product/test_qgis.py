"""Layer styles: the picture's colours, whole ranges, every quality value told, files of others left alone."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from mmnet_maps.errors import OutputError
from mmnet_maps.plots.colours import dry_to_wet, scale_range
from mmnet_maps.product import qgis as style
from mmnet_maps.product.layers import LAYERS, compose
from mmnet_maps.product.qgis import write_styles
from mmnet_maps.product.quality import FLAG_MASKS, QualityFlags

CONTINUOUS = ("soil_moisture", "smap", "soil_moisture_std")


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314  (made here)


def items(layer: str) -> list[ElementTree.Element]:
    return parsed(style.continuous_style(layer)).findall("./pipe/rasterrenderer/rastershader/colorrampshader/item")


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def test_every_layer_has_a_style_and_files_are_written_only_where_they_lack_or_differ(tmp_path: Path) -> None:
    paths = write_styles(tmp_path)
    assert {path.name for path in paths} == {
        *(f"{name}.qml" for name in LAYERS),
        "soil_moisture.txt",
        "soil_moisture_stored.txt",
    }
    assert sorted(paths) == sorted((tmp_path / "styles").iterdir())
    first = {path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}
    paths[0].write_bytes(first[paths[0]][0] + b"\n")
    paths[1].unlink()
    assert write_styles(tmp_path) == paths
    for path, (content, *stamp) in first.items():
        assert path.read_bytes() == content
        assert (path in paths[:2]) == ([path.stat().st_mtime_ns, path.stat().st_ino] != stamp)


def test_a_style_of_others_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "styles" / "smap.qml"
    mine.parent.mkdir()
    mine.write_text("<qgis/>")
    write_styles(tmp_path)
    assert mine.read_text() == "<qgis/>"


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "styles").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_styles(tmp_path)


@pytest.mark.parametrize("layer", CONTINUOUS)
def test_colours_between_the_stops_are_those_of_the_picture(layer: str) -> None:
    values = [float(item.attrib["value"]) for item in items(layer)]
    assert values == sorted(set(values))
    assert all(item.attrib["alpha"] == "255" for item in items(layer))
    low, high = style.RANGES[layer]
    assert (values[0], values[-1]) == (low, high)
    at = np.linspace(low, high, 101)
    shown = np.array([rgb(item.attrib["color"]) for item in items(layer)], float)
    ours = np.column_stack([np.interp(at, values, shown[:, band]) for band in range(3)])
    theirs = dry_to_wet()((at - low) / (high - low))[:, :3] * 255
    np.testing.assert_allclose(ours, theirs, atol=2.0)  # a colour map of matplotlib has 256 steps


@pytest.mark.parametrize("layer", CONTINUOUS)
def test_renderers_are_as_qgis_reads_them(layer: str) -> None:
    text = style.continuous_style(layer)
    assert text.startswith("<!DOCTYPE qgis ")
    root = parsed(text)
    renderer = root.find("./pipe/rasterrenderer")
    assert root.tag == "qgis"
    assert renderer is not None
    assert (renderer.attrib["type"], renderer.attrib["band"]) == ("singlebandpseudocolor", "1")
    assert renderer.attrib["nodataColor"] == ""  # nodata of the file is not drawn
    shader = renderer.find("./rastershader/colorrampshader")
    assert shader is not None
    assert (shader.attrib["colorRampType"], shader.attrib["clip"]) == ("INTERPOLATED", "0")
    low, high = style.RANGES[layer]
    assert (float(shader.attrib["minimumValue"]), float(shader.attrib["maximumValue"])) == (low, high)
    assert (float(renderer.attrib["classificationMin"]), float(renderer.attrib["classificationMax"])) == (low, high)
    labels = [item.attrib["label"] for item in items(layer)]
    assert labels[0] == "0.00 m³/m³"
    assert len(set(labels)) == len(labels)


def test_the_range_is_the_pictures() -> None:
    nothing = scale_range([np.full(3, np.nan, np.float32)])
    assert style.RANGES["soil_moisture"] == style.RANGES["smap"] == nothing == (0.0, 0.5)


def test_the_colour_tables_of_qgis_and_gdal_say_the_same() -> None:
    assert style.colour_table().isascii()
    assert style.stored_colour_table().isascii()
    comment, mode, *lines = style.colour_table().splitlines()
    assert (comment[0], mode) == ("#", "INTERPOLATION:INTERPOLATED")
    rows = [line.split(",") for line in lines]  # six parts, else QGIS refuses the line
    assert all(len(row) == 6 and row[4] == "255" for row in rows)
    assert [float(row[0]) for row in rows] == [value for value, _ in style.stops("soil_moisture")]
    assert [tuple(map(int, row[1:4])) for row in rows] == [rgb(colour) for colour in style.COLOURS]
    comment, *lines, nodata = style.stored_colour_table().splitlines()
    assert (comment[0], nodata) == ("#", "nv 0 0 0 0")
    stored = [[int(part) for part in line.split()] for line in lines]
    assert [row[1:] for row in stored] == [[int(part) for part in row[1:5]] for row in rows]
    packed = LAYERS["soil_moisture"].pack(np.array([float(row[0]) for row in rows], np.float32))
    assert [row[0] for row in stored] == packed.tolist()


def palette() -> dict[int, dict[str, str]]:
    entries = parsed(style.quality_style()).findall("./pipe/rasterrenderer[@type='paletted']/colorPalette/paletteEntry")
    found = {int(entry.attrib["value"]): entry.attrib for entry in entries}
    assert len(found) == len(entries)
    return found


def colour_of(*names: str) -> str:
    return palette()[sum(FLAG_MASKS[name] for name in names)]["color"]


def test_every_quality_value_of_a_map_has_an_entry() -> None:
    rng = np.random.default_rng(0)
    shape = (200, 200)
    some = {name: rng.random(shape) < 0.5 for name in ("inside", "unknown", "missing", "borrowed", "outside")}
    evidence = QualityFlags(
        ages={"optical": rng.integers(0, 30, shape), "sar": rng.integers(0, 30, shape)},
        lst_filled=rng.random(shape).astype(np.float32),
        surface_temperature=rng.uniform(260, 290, shape).astype(np.float32),
        gap_filled=some["borrowed"],
        outside_training=some["outside"],
        synthetic=True,
    ).bits(shape)
    estimate = np.where(some["missing"], np.nan, rng.uniform(-1, 2, shape)).astype(np.float32)
    for bits in (evidence, evidence & 0b01111111111):
        layers = compose(
            estimate, estimate, inside=some["inside"], unknown=some["unknown"], bulk_density=None, flags=bits
        )
        values = np.unique(layers["quality"])
        assert values.size > 200
        assert set(values.tolist()) <= set(palette())


def test_quality_colours_tell_why_and_how_much() -> None:
    assert palette()[1]["alpha"] == "0"
    assert all(entry["alpha"] == "255" for value, entry in palette().items() if value != 1)
    assert colour_of() == colour_of("synthetic")
    assert colour_of("unknown_land_cover") == colour_of("unknown_land_cover", "sar_old", "frozen", "synthetic")
    assert colour_of("input_missing") == colour_of("input_missing", "optical_old")
    assert colour_of("frozen") == colour_of("sar_old") == colour_of("sar_old", "synthetic")
    assert colour_of("frozen", "clipped", "sar_old") == colour_of("frozen", "clipped", "sar_old", "lst_filled")
    distinct = [(), ("unknown_land_cover",), ("input_missing",), ("frozen",), ("frozen", "clipped")]
    assert len({colour_of(*names) for names in distinct}) == len(distinct)


def test_the_key_of_single_flags_comes_first() -> None:
    labels = [entry["label"] for entry in palette().values()]
    assert labels[:5] == [
        "0: no flag",
        "1: no value, outside area",
        "2: no value, unknown land cover",
        "4: no value, input missing",
        "8: optical old",
    ]
    assert labels[11] == "1024: synthetic"
    assert palette()[26]["label"] == "26: no value, unknown land cover, optical old, sar old"
