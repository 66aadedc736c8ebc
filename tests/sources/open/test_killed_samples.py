"""A table of samples whose command is killed in the middle of reading open services, and started again."""

from __future__ import annotations

import re
import signal
import sys
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from threading import Event, Lock

import pytest
import yaml

from fake_open import Asked, FakeOpen, Reply
from insitu_files import uscrn
from mmnet_maps.model.features import Feature
from mmnet_maps.training.build_table import make_samples
from open_routes import Earthdata, Thredds, Wcs
from open_setup import loopback_config
from processes import start_interruptible
from station_tables import small_config

pytest.importorskip("earthaccess")

PLACES = {"WA_Ephrata": (47.11, -119.29), "OK_Norman": (36.12, -97.09)}
DAYS = [date(2021, 8, 1) + timedelta(days=k) for k in range(3)]
DATA = re.compile(r"/opendap/|/ncss/agg_met_pr_1979_CurrentYear_CONUS\.nc$")
COMMAND = "import sys; from mmnet_maps.cli import main; sys.argv[0] = 'mmnet'; main()"


def fetched(server: FakeOpen) -> Counter[str]:
    """Return how often each part of the inputs was sent whole."""
    known = [(one, status) for one, status, _ in server.log if DATA.search(one.path)]
    return Counter(f"{one.path} {sorted(one.query.items())}" for one, status in known if status == 200)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_command_started_again_ends_in_the_same_bytes(
    server: FakeOpen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    monkeypatch.setenv("EARTHDATA_TOKEN", Earthdata().tokens[-1])
    server.serve(Earthdata(), Thredds(), Wcs())
    (tmp_path / "open.yaml").write_text(yaml.safe_dump(loopback_config(server, ["smap", "weather", "landcover"])))
    series = (Feature(name="pr", encoding="log1p"),)
    config = small_config(snapshot=(Feature(name="smap", encoding="identity"),), series=series, steps=3)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    for number, (name, (lat, lon)) in enumerate(PLACES.items()):
        uscrn(tmp_path / "uscrn", name, dict.fromkeys(DAYS, 0.1 + 0.05 * number), lat=lat, lon=lon)
    options = {"source": tmp_path / "open.yaml", "config": tmp_path / "config.yaml"}
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "cache of the undisturbed"))
    make_samples([tmp_path / "uscrn"], tmp_path / "undisturbed.parquet", quiet=True, **options)
    whole = fetched(server)
    assert len(whole) == 8 * len(DAYS) + 2 * 2  # each field of SMAP once for both places; rain, two months, at each
    assert set(whole.values()) == {1}

    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "cache"))
    words = [
        sys.executable, "-c", COMMAND, "samples", "--observations", tmp_path / "uscrn", "--quiet",
        "--out", tmp_path / "t.parquet", *(word for key, value in options.items() for word in (f"--{key}", value)),
    ]  # fmt: skip
    server.log.clear()
    reached, lock, left = Event(), Lock(), [10]

    def hold(asked: Asked) -> Reply | None:
        """Answer ten requests for inputs, then none."""
        if not DATA.search(asked.path):
            return None
        with lock:
            left[0] -= 1
        if left[0] >= 0:
            return None
        while sum(fetched(server).values()) < 10:  # some are still being answered
            server.hang(0.05)
        reached.set()
        server.hang(5)
        return Reply(status=503)

    server.faults.append(hold)
    with start_interruptible(words) as process:
        assert reached.wait(300)
        process.send_signal(how)
        assert process.wait(300) != 0
    before = fetched(server)
    assert sum(before.values()) == 10
    assert not (tmp_path / "t.parquet").exists()

    server.faults.clear()
    with start_interruptible(words) as process:
        assert process.wait(300) == 0
    assert (tmp_path / "t.parquet").read_bytes() == (tmp_path / "undisturbed.parquet").read_bytes()
    # Ten answers were sent; one at the moment of the signal may not have been kept yet.
    twice = [name for name, times in fetched(server).items() if times > 1]
    assert fetched(server).keys() == whole.keys()
    assert set(twice) <= set(before)
    assert len(twice) <= 6
    assert not list(tmp_path.glob(".t.parquet*"))
