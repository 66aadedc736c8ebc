"""The CF checker of IOOS."""

from __future__ import annotations

from pathlib import Path


def faults(path: Path) -> dict[int, list[str]]:
    """Return the faults that the CF checker of IOOS finds, by priority: 3 high, 2 medium, 1 low."""
    from compliance_checker.suite import CheckSuite

    CheckSuite.load_all_available_checkers()
    suite = CheckSuite()
    data = suite.load_dataset(str(path))
    ((results, errors),) = suite.run_all(data, ["cf:1.11"]).values()
    data.close()
    assert not errors
    found: dict[int, list[str]] = {}
    for result in results:
        # Messages of a passed check are remarks, not faults.
        if result.value[0] < result.value[1]:
            found.setdefault(result.weight, []).extend(result.msgs)
    return found
