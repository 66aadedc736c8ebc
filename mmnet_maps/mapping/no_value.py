"""Why no pixel of a map has a value: counted while it is made, or read from its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import counted
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.quality import FLAG_MASKS, Mask
from mmnet_maps.variables import VARIABLES

if TYPE_CHECKING:
    from mmnet_maps.product.day_writer import DayProduct
    from mmnet_maps.stack.needs import Needs
    from mmnet_maps.stack.reader import Block

_REASONS = {
    "unknown_land_cover": "water, ice or another land cover that the model does not know",
    "input_missing": "an input is missing",
}
_NAMED = 4  # inputs


@dataclass(kw_only=True)
class Tally:
    """Pixels of one map by why they have no value.

    Attributes
    ----------
    pixels, valued
        Pixels in the area of interest, and those with a value.
    reasons
        Pixels without a value by flag of the quality layer.
    missing
        Pixels without a value by an input that they do not have; counted only as long as no pixel has a value.
    """

    pixels: int = 0
    valued: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)

    def count(self, quality: NDArray[np.uint16], moisture: NDArray[Any]) -> None:
        """Add pixels: their quality, and their soil moisture, NaN where there is none."""
        self.pixels += int(np.count_nonzero(quality != FLAG_MASKS["outside_area"]))
        self.valued += int(np.count_nonzero(np.isfinite(moisture)))
        for name in _REASONS:
            self.reasons[name] += int(np.count_nonzero(quality & FLAG_MASKS[name]))

    def count_inputs(
        self, fine: Mapping[str, NDArray[Any]], block: Block, number: int, wanted: Mask, needs: Needs
    ) -> None:
        """Add the inputs that some pixels of a tile do not have.

        Parameters
        ----------
        fine
            Variables of the snapshot that the model uses, (y, x) as in `reader.Snapshot`.
        block, number
            Inputs of the tile, and the position of the map's day in it.
        wanted
            The pixels (y, x).
        needs
            The model's, for the days of the series that must have a value.
        """
        for name, values in fine.items():
            empty = np.isnan(values) if values.dtype.kind == "f" else values == VARIABLES[name].nodata
            self.missing[name] += int(np.count_nonzero(empty & wanted))
        end = block.starts[number] + needs.steps
        for name, series in block.series.items():
            cells = np.isnan(series[:, end - (needs.valued or needs.steps) : end]).any(axis=1)
            self.missing[name] += int(np.count_nonzero(np.append(cells, True)[block.rows_of(name)] & wanted))

    def why(self) -> str | None:
        """Return why no pixel has a value, as the end of a sentence; None where one has."""
        if self.valued or not self.pixels:
            return None
        total = f"{self.pixels:,}"
        parts = [f"{number:,} of {total}: {_REASONS[name]}" for name, number in self.reasons.most_common() if number]
        if lost := [(name, number) for name, number in self.missing.most_common() if number]:
            named = ", ".join(f"{name} in {number:,}" for name, number in lost[:_NAMED])
            more = f", … {counted(len(lost) - _NAMED, 'more input')}" if len(lost) > _NAMED else ""
            place = next(k for k, text in enumerate(parts) if text.endswith(_REASONS["input_missing"]))
            parts[place] += f" ({named}{more})"
        return "; ".join(parts)


def why_in_files(product: DayProduct) -> str | None:
    """Return why no pixel of a finished map has a value; None where one has. Errors as `cog.read_band`."""
    from mmnet_maps.product.cog import read_band, read_smallest

    layer = LAYERS["soil_moisture"]
    path = product.layers.get(layer.name)
    if path is None or "quality" not in product.layers or (read_smallest(path) != layer.nodata).any():
        return None
    tally = Tally()
    tally.count(read_band(product.layers["quality"]), np.full(1, np.nan))
    return tally.why()


def sentence(name: str, day: object, why: str) -> str:
    """Return the notice of a map without a value.

    >>> sentence("fields", "2021-08-08", "12 of 12: an input is missing (clay in 12)")
    'no pixel of fields on 2021-08-08 has a value: 12 of 12: an input is missing (clay in 12)'
    """
    return f"no pixel of {name} on {day} has a value: {why}"
