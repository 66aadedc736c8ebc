#!/bin/sh
# fsspec 2026.9.0: over HTTP, info() raises FileNotFoundError for any failure, such as 403 Forbidden.
#
# A server that refuses (an expired signature, a missing login, too many requests) and one that has no such file look the same: FileNotFoundError with the address. Code that treats absent
# files as days without data drops them all when a token expires. cat_file() of the same address raises the HTTP error with its status.
# Seen with aiohttp 3.14.5, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check fsspec==2026.9.0 aiohttp==3.14.5
cd "$work"
"$work/venv/bin/python" - <<'PY'
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import fsspec


class Refuses(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(403)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Refuses)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}/rain.tif"
system = fsspec.filesystem("http")
found = {}
for name in ("info", "cat_file"):
    try:
        getattr(system, name)(address)
    except Exception as error:
        found[name] = type(error).__name__
        print(f"{name} of a file that the server refuses with 403: {type(error).__name__}: {str(error)[:90]}")
assert found["info"] == "FileNotFoundError", "changed: a refusal is told from an absent file"
assert found["cat_file"] == "ClientResponseError"
PY
