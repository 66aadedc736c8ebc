"""Parts of pictures that show places: boxes, projections, scale bars, degrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmnet_maps.plots.canvas import nice_length, plain
from mmnet_maps.plots.colours import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]
"""left, bottom, right, top in metres."""


def local_projection(bounds: Sequence[float]) -> str:
    """Return the PROJ text of an equal-area projection about the centre of west, south, east and north in degrees."""
    west, south, east, north = bounds
    return f"+proj=laea +lat_0={(south + north) / 2:.6f} +lon_0={(west + east) / 2:.6f} +datum=WGS84 +units=m"


def scale_bar(axes: Axes, metres: float) -> None:
    """Draw a bar of a round length below a panel that is so many metres wide."""
    from matplotlib.transforms import ScaledTranslation

    length = nice_length(metres * 0.35)
    share = length / metres
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    below = axes.transAxes + ScaledTranslation(0, -0.16, axes.figure.dpi_scale_trans)
    axes.plot([0, share], [0, 0], transform=below, color=INK, linewidth=2, clip_on=False, solid_capstyle="butt")
    axes.annotate(
        label, (share, 0), (5.8, -12.2), xycoords="axes fraction", textcoords="offset points", va="center",
        fontsize=7.5, color=INK,
    )  # fmt: skip


def label_degrees(axes: Axes) -> None:
    """Write longitude and latitude at the ticks, in degrees west, east, south and north."""
    axes.xaxis.set_major_formatter(lambda x, _: f"{abs(x):g}° {'W' if x < 0 else 'E'}")
    axes.yaxis.set_major_formatter(lambda y, _: f"{abs(y):g}° {'S' if y < 0 else 'N'}")
    plain(axes)
