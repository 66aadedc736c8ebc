"""The canvas: round lengths, evenly chosen items, and a watermark that fits its panel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from mmnet_maps.plots.canvas import WATERMARK, evenly, nice_length, place_text, png, watermark


@given(st.floats(1e-3, 1e7))
def test_nice_lengths(longest: float) -> None:
    found = nice_length(longest)
    assert longest / 2.5 * (1 - 1e-6) <= found <= longest * (1 + 1e-6)
    assert f"{found:.0e}"[0] in "125"


@given(st.integers(1, 400))
def test_chosen_items_keep_first_last_and_order(count: int) -> None:
    shown = evenly(range(count))
    assert len(shown) == min(count, 6)
    assert (shown[0], shown[-1]) == (0, count - 1)
    gaps = np.diff(shown)
    assert len(shown) == 1 or (gaps.min() >= 1 and np.ptp(gaps) <= 1)


@pytest.mark.parametrize("size", [(5.0, 5.0), (9.0, 1.4), (0.9, 4.0), (1.5, 1.5)])
def test_a_watermark_lies_within_its_panel(size: tuple[float, float]) -> None:
    figure = Figure(figsize=size, dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    watermark(axes, *size)
    (text,) = axes.texts
    assert text.get_text().replace(" · ", "\n") == WATERMARK
    figure.draw_without_rendering()
    box = text.get_window_extent()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= 100 * size[0]
    assert box.y1 <= 100 * size[1]


def test_a_name_in_another_script_is_drawn_without_a_warning() -> None:
    figure = Figure(figsize=(2, 1))
    place_text(figure, 0.1, 0.5, "北京 हिन्दी Zürich", size=8)
    assert png(figure).startswith(b"\x89PNG")
