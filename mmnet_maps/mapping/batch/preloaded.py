"""Imported first by the process that workers are forked from (see `forks`)."""

from __future__ import annotations

from mmnet_maps.resources import collect_rarely

collect_rarely()
