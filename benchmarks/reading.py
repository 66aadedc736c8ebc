"""Measure how reading tiles scales with the threads that read; prints JSON, tiles a second by threads.

python benchmarks/reading.py STACK DAY TILE,TILE… THREADS…
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import route

if __name__ == "__main__":
    stack, day, tiles, *threads = sys.argv[1:]
    found = {}
    with tempfile.TemporaryDirectory() as out:
        for count in map(int, threads):
            requests = route.requests(stack, out, tiles.split(","), [date.fromisoformat(day)])
            route.read(requests[0], date.fromisoformat(day))
            with ThreadPoolExecutor(count) as pool:
                started = time.perf_counter()
                for _ in pool.map(lambda request: route.read(request, date.fromisoformat(day)) and None, requests):
                    pass
                found[count] = len(requests) / (time.perf_counter() - started)
    print(json.dumps(found))
