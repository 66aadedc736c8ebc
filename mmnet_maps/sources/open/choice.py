"""Choose the product of each variable: what a stack holds already, else the first that can be had without a hole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from mmnet_maps.errors import counted
from mmnet_maps.sources.base import Provenance, SourceDownError
from mmnet_maps.sources.open.config import Product
from mmnet_maps.sources.open.service import Found, NeedsLogin, Service
from mmnet_maps.variables import SEARCH_DAYS, STATIC_GROUPS

log = logging.getLogger("mmnet_maps")

_LATE = 10
"""Days that daily fields may be missing, as at the end, where they are published late."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A product, its name in the YAML, and the service that has it."""

    key: str
    product: Product
    service: Service

    @property
    def label(self) -> str:
        """The product and its service, for messages."""
        return f"{self.key} ({self.product.service})"


def chosen(
    chain: Sequence[Offer],
    days: Sequence[date],
    held: Mapping[str, Provenance],
    find: Callable[[Offer], Sequence[Found]],
) -> Offer:
    """Return the product to read from those of a chain, and log where it is not the first.

    Parameters
    ----------
    chain
        In the order to try.
    days
        The days to be read.
    held
        Provenance of the variables in the stack: a stack holds one product of each.
    find
        Looks up what there is of a product for these days.
    """
    first = chain[0]
    for offer in chain:
        if any(held.get(name) == one for name, one in offer.product.provenance.items()):
            return offer
    faults: list[tuple[Offer, str]] = []
    with_hole: Offer | None = None
    for offer in chain:
        fault = offer.service.missing() if isinstance(offer.service, NeedsLogin) else ""
        if not fault:
            try:
                found = find(offer)
            except SourceDownError as error:
                fault = str(error)
            else:
                fault = "" if offer.product.group in STATIC_GROUPS and found else _hole(offer, found, days)
                with_hole = with_hole or (offer if found and fault else None)
        if not fault:
            break
        faults.append((offer, fault))
    else:
        offer = with_hole or first
    for one, fault in faults:
        log.warning("%s: %s", one.label, fault)
    if offer is not first:
        log.warning("%s is used instead of %s; maps will name it as a substitute", offer.label, first.label)
    elif faults:
        others = " or ".join(other.label for other in chain[1:])
        why = f"{others} would be no better" if others else "no other product is listed for it"
        log.warning("%s stays in use; %s", first.label, why)
    return offer


def _hole(offer: Offer, found: Sequence[Found], days: Sequence[date]) -> str:
    """Return the days on which a product has nothing, in words, where they are too many for interpolation."""
    if not days:
        return ""
    if not found:
        return f"nothing from {days[0]} to {days[-1]} in this area"
    there = {day for one in found for day in days if one.first and one.last and one.first <= day <= one.last}
    longest, start = timedelta(), days[0]
    since = days[0]
    for day in [*days, days[-1] + timedelta(days=1)]:
        if day in there or day > days[-1]:
            if day - since > longest:
                longest, start = day - since, since
            since = day + timedelta(days=1)
    if longest.days <= SEARCH_DAYS.get(offer.product.group, _LATE):
        return ""
    return f"nothing from {start} to {start + longest - timedelta(days=1)}, {counted(longest.days, 'day')}"
