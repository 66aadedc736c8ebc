"""Layer styles for QGIS and colour tables for it and GDAL: the picture's colours, one range for every place and day."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from xml.etree import ElementTree

from mmnet_maps.files import is_ours, write_whole
from mmnet_maps.plots.colours import COLOURS, DROUGHT_COLOURS, DRY_WET, FULL_RANGE
from mmnet_maps.product.drought import CLASSES
from mmnet_maps.product.layers import DROUGHT, LAYERS
from mmnet_maps.product.quality import FLAG_MASKS, NO_VALUE, flags_in

RANGES = {
    "soil_moisture": FULL_RANGE,
    "smap": FULL_RANGE,
    "soil_moisture_std": (0.0, 0.1),
    "soil_moisture_anomaly": (-0.15, 0.15),
    "soil_moisture_standardised_anomaly": (-3.0, 3.0),
}
"""The range of each continuous layer's colours; values beyond it take the colour of its end."""

_PERCENTILE = "soil_moisture_percentile"
_UNITS = {"m3 m-3": " m³/m³", "1": ""}
_NO_FLAG = "#dcebd5"
_REASON_COLOURS = {"outside_area": "#ffffff", "unknown_land_cover": "#7fb2dd", "input_missing": "#6b6b6b"}
_FLAG_COLOURS = ("#ffe08a", "#f5a53c", "#c4511b")
_MARK = " made by mmnet_maps; save changes of your own under another name "


def write_styles(out: Path) -> list[Path]:
    """Write the missing or outdated QGIS styles of all layers and colour tables of soil moisture.

    A file of that name that was not made by this software, a style that QGIS saved for instance, is left as it is.

    Parameters
    ----------
    out
        Output root; the files go to ``styles`` in it.

    Returns
    -------
    list of Path
        ``{layer}.qml`` of every layer, ``soil_moisture.txt`` for QGIS, ``soil_moisture_stored.txt`` for GDAL; whether
        written now or not.

    Raises
    ------
    OutputError
        When a file cannot be written.
    """
    contents = {f"{layer}.qml": continuous_style(layer) for layer in RANGES}
    contents |= {
        "quality.qml": quality_style(),
        f"{_PERCENTILE}.qml": percentile_style(),
        "soil_moisture.txt": colour_table(),
        "soil_moisture_stored.txt": stored_colour_table(),
    }
    paths = []
    for name, content in contents.items():
        path = out / "styles" / name
        if not path.exists() or is_ours(path):
            write_whole(path, content)
        paths.append(path)
    return paths


def stops(layer: str) -> list[tuple[float, str]]:
    """Return values and colours (``#rrggbb``) of a continuous layer, from dry to wet; linear between them.

    Examples
    --------
    >>> stops("soil_moisture")[:2]
    [(0.0, '#fce5be'), (0.05, '#f7ce8a')]
    """
    low, high = RANGES[layer]
    colours = DRY_WET if layer in DROUGHT else COLOURS
    step = (high - low) / (len(colours) - 1)
    return [(round(low + number * step, 6), colour) for number, colour in enumerate(colours)]


def continuous_style(layer: str) -> str:
    """Return the QGIS style (QML) of a continuous layer: colours linear between the stops, nodata not drawn.

    QGIS applies the scale of the file first, so that the values are in physical units.
    """
    unit = _UNITS[LAYERS[layer].units]
    root, shader = _shader("INTERPOLATED", *RANGES[layer])
    for value, colour in stops(layer):
        label = f"{value:.2f}{unit}"
        ElementTree.SubElement(shader, "item", value=f"{value:g}", color=colour, alpha="255", label=label)
    # A legend of the stops, not a bar: it is the one that all versions of QGIS draw with the unit.
    ElementTree.SubElement(
        shader, "rampLegendSettings", useContinuousLegend="0", suffix=unit, prefix="", orientation="2"
    )
    return _text(root)


def percentile_style() -> str:
    """Return the QGIS style (QML) of percentiles: drought classes in the colours of the U.S. Drought Monitor."""
    root, shader = _shader("DISCRETE", 0.0, 100.0)
    for name, highest in reversed(CLASSES.items()):
        value, label = f"{highest + LAYERS[_PERCENTILE].scale / 2:g}", f"{name}: {highest:g} % and below"
        ElementTree.SubElement(shader, "item", value=value, color=DROUGHT_COLOURS[name], alpha="255", label=label)
    ElementTree.SubElement(shader, "item", value="inf", color=_NO_FLAG, alpha="255", label="no drought")
    return _text(root)


def _shader(kind: str, low: float, high: float) -> tuple[ElementTree.Element, ElementTree.Element]:
    """Return a style of one band in colours by value, and the element that its colours belong to."""
    root, renderer = _document("singlebandpseudocolor")
    renderer.attrib |= {"classificationMin": f"{low:g}", "classificationMax": f"{high:g}"}
    shader = ElementTree.SubElement(
        ElementTree.SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType=kind,
        classificationMode="1",
        clip="0",
        minimumValue=f"{low:g}",
        maximumValue=f"{high:g}",
        labelPrecision="2",
    )
    return root, shader


def quality_style() -> str:
    """Return the QGIS style (QML) of the quality layer: why a pixel has no value, or how many flags qualify it.

    A flag is one bit of a sum, and QGIS colours sums, so every sum that can occur has an entry: first those of one flag
    or none, which are the key, then the others. A reason for no value decides the colour; else the number of flags
    does, ``synthetic`` aside, since it is set everywhere or nowhere.
    """
    root, renderer = _document("paletted")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for value in sorted(_sums(), key=lambda value: (value.bit_count() > 1, value)):
        colour, alpha = quality_colour(value)
        ElementTree.SubElement(
            palette, "paletteEntry", value=str(value), color=colour, alpha=str(alpha), label=quality_label(value)
        )
    return _text(root)


def colour_table() -> str:
    """Return the colours of soil moisture as text that QGIS loads: m³/m³, red, green, blue, alpha, label."""
    rows = (
        f"{value:g},{_red_green_blue(colour, ',')},255,{value:.2f} m3/m3" for value, colour in stops("soil_moisture")
    )
    return "\n".join(["# surface soil moisture in m3/m3, made by mmnet_maps", "INTERPOLATION:INTERPOLATED", *rows, ""])


def stored_colour_table() -> str:
    """Return the colours for ``gdaldem color-relief``, by stored values, because it does not apply the scale."""
    scale = LAYERS["soil_moisture"].scale
    rows = (f"{round(value / scale)} {_red_green_blue(colour, ' ')} 255" for value, colour in stops("soil_moisture"))
    head = f"# surface soil moisture as stored, x {scale:g} m3/m3, made by mmnet_maps; nv is nodata"
    return "\n".join([head, *rows, "nv 0 0 0 0", ""])


def _red_green_blue(colour: str, between: str) -> str:
    return between.join(str(part) for part in bytes.fromhex(colour.removeprefix("#")))


def _document(renderer: str) -> tuple[ElementTree.Element, ElementTree.Element]:
    """Return a style without content, and its renderer of the one band."""
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    root.append(ElementTree.Comment(_MARK))
    pipe = ElementTree.SubElement(root, "pipe")
    element = ElementTree.SubElement(
        pipe, "rasterrenderer", type=renderer, band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    ElementTree.SubElement(element, "rasterTransparency")
    ElementTree.SubElement(pipe, "rasterresampler", maxOversampling="2")
    ElementTree.SubElement(root, "blendMode").text = "0"
    return root, element


def _text(root: ElementTree.Element) -> str:
    ElementTree.indent(root, " ")
    doctype = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"
    return f"{doctype}\n{ElementTree.tostring(root, encoding='unicode')}\n"


def _sums() -> list[int]:
    """Return the values of quality that `layers.compose` can give.

    Outside the area bit 0 stands alone, and where the land cover is unknown no input is called missing.
    """
    reasons = (0, *(FLAG_MASKS[name] for name in NO_VALUE[1:]))
    flags = [(0, mask) for name, mask in FLAG_MASKS.items() if name not in NO_VALUE]
    return [FLAG_MASKS["outside_area"], *(reason + sum(some) for reason, *some in product(reasons, *flags))]


def quality_colour(value: int) -> tuple[str, int]:
    """Return colour and opacity (0 to 255) of a value of quality, by its reason for no value or number of flags."""
    names = flags_in(value)
    for reason in NO_VALUE:
        if reason in names:
            return _REASON_COLOURS[reason], 0 if reason == "outside_area" else 255
    count = len(names) - ("synthetic" in names)
    return (_FLAG_COLOURS[min(count, len(_FLAG_COLOURS)) - 1] if count else _NO_FLAG), 255


def quality_label(value: int) -> str:
    """Return a value of quality with its flags in words.

    >>> quality_label(0b1000010000)
    '528: sar old, frozen'
    """
    names = flags_in(value)
    words = ", ".join(name.replace("_", " ") for name in names) or "no flag"
    return f"{value}: {'no value, ' if set(names) & set(NO_VALUE) else ''}{words}"
