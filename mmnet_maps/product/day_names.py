"""Names of the files of one day of one area."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from glob import escape
from pathlib import Path

from mmnet_maps.errors import OutputError


@dataclass(frozen=True, kw_only=True)
class DayNames:
    """Paths of one day of one area, made by `of`."""

    day: date
    folder: Path
    stem: str

    @classmethod
    def of(cls, out: Path, name: str, day: date, synthetic: bool) -> DayNames:
        """Return the names of a day in an output root.

        Raises
        ------
        OutputError
            When `name` cannot be part of a file name.

        Examples
        --------
        >>> DayNames.of(Path("maps"), "h06v03", date(2021, 8, 8), True).item.as_posix()
        'maps/20210808/h06v03_20210808_synthetic.json'
        """
        if not name or name.startswith(".") or any(sign in name for sign in "/\\\0"):
            raise OutputError(
                f"{name!r} cannot be part of a file name: expected letters, digits, - and _; rename the area's file"
            )
        stem = f"{name}_{day:%Y%m%d}{'_synthetic' if synthetic else ''}"
        return cls(day=day, folder=out / f"{day:%Y%m%d}", stem=stem)

    def layer(self, layer: str) -> Path:
        """Return the COG of a layer."""
        return self.folder / f"{self.stem}_{layer}.tif"

    @property
    def item(self) -> Path:
        """The STAC item."""
        return self.folder / f"{self.stem}.json"

    @property
    def picture(self) -> Path:
        """The picture."""
        return self.folder / f"{self.stem}.png"

    @property
    def members(self) -> Path:
        """The Zarr store of the ensemble members."""
        return self.folder / f"{self.stem}_members.zarr"

    @property
    def previous_item(self) -> Path:
        """Hidden place of the old item during an exchange, which keeps its version known if the process is killed."""
        return self.folder / f".{self.stem}.previous.json"

    @property
    def staging(self) -> str:
        """Glob pattern of the hidden staging folders."""
        return f".{escape(self.stem)}.*.partial"
