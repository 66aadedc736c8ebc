#!/bin/sh
# cf-units 3.3.1 (UDUNITS 2): units as published files spell them are parsed as other quantities, without an error.
#
# "degrees C", the units of temperature in Daymet, is an angle times a charge: degree coulomb; "C" alone is a coulomb. "mb" is a millibarn,
# an area, not a millibar. All three are valid units, so a check that only asks whether a text can be parsed passes, and the conversion to K or Pa
# fails much later. A percentage even converts to degrees, since both are numbers to UDUNITS: a slope of 100 %, which is 45 degrees, becomes 57.3.
# Seen with numpy 2.4.6, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check cf-units==3.3.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
from cf_units import Unit

for text, meant in (("degrees C", "K"), ("C", "K"), ("mb", "Pa")):
    unit = Unit(text)
    print(f"{text!r} is {unit.definition}; converts to {meant}: {unit.is_convertible(meant)}")
    assert not unit.is_convertible(meant), f"changed: {text} is understood as meant"
assert Unit("degrees C") == Unit("degree coulomb")
slopes = [Unit("percent").convert(share, "degrees") for share in (1.0, 100.0)]
print(f"1 % and 100 % converted to degrees: {slopes[0]:.3f}, {slopes[1]:.1f}")
assert round(slopes[1], 1) == 57.3, "changed: percent is no angle"
PY
