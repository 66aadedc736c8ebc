"""What the scenes of the synthetic world share in a run of rows, each part computed where a group needs it."""

from __future__ import annotations

from functools import cached_property

from mmnet_maps.sources.demo.cover import Cover, Fields, cover, fine_noise, survey
from mmnet_maps.sources.demo.land import GroundNodes, LazyGround, gradient, surface_elevation
from mmnet_maps.sources.demo.noise import Field, Positions


class Band:
    """A run of rows of a fine window whose ground one worker holds; its fields are surveyed on first use."""

    def __init__(self, wide: Positions, seed: int) -> None:
        self.nodes, self.seed = GroundNodes(wide, seed), seed

    @cached_property
    def fields(self) -> Fields:
        """The quarter sections."""
        return survey(self.nodes, self.seed)


class Block:
    """A run of rows of a band, and what its scenes share, each computed on first use: groups differ in what they need.

    Parameters
    ----------
    rows
        Rows of the window.
    wide
        Positions, with one pixel around them.
    band
        The band.
    step
        Metres per column and row (see `_steps`).
    """

    def __init__(self, rows: slice, wide: Positions, band: Band, step: tuple[Field, float]) -> None:
        self.rows, self.places, self._wide, self._band, self._step = rows, wide.inner(), wide, band, step

    @cached_property
    def _around(self) -> LazyGround:
        return self._band.nodes.at(self._wide)

    @cached_property
    def ground(self) -> LazyGround:
        """The ground."""
        return self._around.inner()

    @property
    def fields(self) -> Fields:
        """The quarter sections."""
        return self._band.fields

    @cached_property
    def texture(self) -> Field:
        """The fine noise of cover and soil."""
        return fine_noise(self.places, self._band.seed)

    @cached_property
    def cover(self) -> Cover:
        """The land cover."""
        return cover(self.ground, self.texture, self.fields)

    @cached_property
    def _heights(self) -> Field:
        return surface_elevation(self._wide, self._around, self._band.seed)

    @property
    def elevation(self) -> Field:
        """Elevation, m."""
        return self._heights[1:-1, 1:-1]

    @cached_property
    def gradient(self) -> tuple[Field, Field]:
        """Rise over run of the terrain to the east and north."""
        return gradient(self._heights, self._step)
