#!/bin/sh
# zarr 3.4.2: the settings of BloscCodec and ShardingCodec are plain strings, where zarr 3.1.6 had members of an enumeration.
#
# codec.cname.value, which gave "zstd" with 3.1, is an AttributeError with 3.4; codec.cname itself gives BloscCname.zstd with one and "zstd" with the other.
# pip installs 3.4 on Python 3.12 and later, and 3.1 on Python 3.11, so that the same requirement "zarr>=3.1" fails on newer Pythons alone. to_dict() is the same with both.
# Seen with Python 3.12; needs it as python3.12.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.12 -m venv "$work/venv"
for version in 3.1.6 3.4.2; do
    "$work/venv/bin/python" -m pip install -q --disable-pip-version-check "zarr==$version"
    "$work/venv/bin/python" - <<'PY'
import zarr
from zarr.codecs import BloscCodec, ShardingCodec

codec = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")
found = type(codec.cname).__name__
print(f"zarr {zarr.__version__}: cname is {codec.cname!r}, in to_dict() {codec.to_dict()['configuration']['cname']!r}")
assert found == {"3.1.6": "BloscCname", "3.4.2": "str"}[zarr.__version__], f"changed: {found}"
found = type(ShardingCodec(chunk_shape=(4, 4)).index_location).__name__
assert found == {"3.1.6": "ShardingCodecIndexLocation", "3.4.2": "str"}[zarr.__version__], f"changed: {found}"
PY
done
