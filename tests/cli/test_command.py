"""What every command refuses before it runs: outputs that are inputs, files of others, options given twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from command_line import AREA, DAY
from mmnet_maps.cli.checks import check_request, period, requested_days
from mmnet_maps.cli.command import Command, Input, OutputFile, OutputFolder, RequiredDays
from mmnet_maps.cli.commands import mmnet
from mmnet_maps.cli.map import map_command
from mmnet_maps.errors import MMNetError, OutputError, RequestError
from mmnet_maps.settings import MapSettings

Pair = tuple[click.Command, click.Parameter]

PLAIN = {"ADDRESS", "COLUMN", "CRS", "DAY", "DAY|DAY/DAY", "DAY|DAY/DAY|latest", "NAME", "SIZE", "conus|ID,ID…"}
"""Placeholders of texts that are no paths."""


def commands(group: click.Command = mmnet) -> Iterator[click.Command]:
    yield group
    for one in group.commands.values() if isinstance(group, click.Group) else ():
        yield from commands(one)


PARAMS = [(command, param) for command in commands() for param in command.params]
OUTPUTS = [(command, param) for command, param in PARAMS if isinstance(param.type, OutputFile | OutputFolder)]
FILES = [(command, param) for command, param in OUTPUTS if isinstance(param.type, OutputFile)]


def name(value: object) -> str | None:
    return value.name if isinstance(value, click.Command | click.Parameter) else None


def parse(command: click.Command, values: dict[str, str]) -> click.Context:
    """Parse a line with these values, and any value for other parameters that are required."""
    words: list[str] = []
    for param in command.params:
        value = values.get(param.name or "")
        if value is None and isinstance(param, RequiredDays):
            value = "2021-08-08"
        if value is None and param.required:
            value = "2021-08-08"
            if isinstance(param.type, OutputFile):
                value = f"other{param.type.endings[0]}"
        if value is not None:
            words += [value] if isinstance(param, click.Argument) else [param.opts[0], value]
    return command.make_context(command.name or "", words)


def inputs(command: click.Command) -> list[str]:
    return [param.name or "" for param in command.params if isinstance(param.type, Input)]


def assert_refused(command: click.Command, values: dict[str, str], message: str, error: type[MMNetError]) -> None:
    with pytest.raises(error, match=message) as found:
        parse(command, values)
    assert len(str(found.value)) < 300


def test_every_path_is_an_input_or_an_output() -> None:
    for command, param in PARAMS:
        assert isinstance(command, Command)
        assert param.type.name != "text" or param.metavar in PLAIN, f"{command.name} {param.name} {param.metavar}"
    assert len(OUTPUTS) >= 18


@pytest.mark.parametrize(("command", "out"), OUTPUTS, ids=name)
def test_an_output_is_no_input(command: click.Command, out: click.Parameter) -> None:
    ending = ""
    if isinstance(out.type, OutputFile):
        ending = out.type.endings[0]
        Path(f"mine{ending}").write_text(" ".join(out.type.marks or ()))
    else:
        Path("mine").mkdir()
    Path("store").mkdir()
    Path("store", "zarr.json").touch()
    os.symlink(f"mine{ending}", f"link{ending}")
    os.symlink(".", "here")
    for one in inputs(command):
        for same in (f"mine{ending}", f"link{ending}", f"here/mine{ending}", os.path.abspath(f"mine{ending}")):
            assert_refused(command, {one: f"mine{ending}", out.name or "": same}, "is the input of", RequestError)
        inside = f"here/store/group/made{ending}"
        assert_refused(command, {one: "store", out.name or "": inside}, "lies in store", RequestError)
        if isinstance(out.type, OutputFolder) and out.type.whole:
            assert_refused(
                command, {one: "here/store/zarr.json", out.name or "": "store"}, "holds here/store", RequestError
            )
        parse(command, {one: "store", out.name or "": f"made{ending}"})


@pytest.mark.parametrize(("command", "out"), FILES, ids=name)
def test_an_output_replaces_only_its_own_kind(command: click.Command, out: click.Parameter) -> None:
    assert isinstance(out.type, OutputFile)
    Path("folder.csv").mkdir()
    for value in ("", ".", "folder.csv", "/dev/null", "made.txt", "made"):
        assert_refused(
            command, {out.name or "": value}, f"expected one that ends in .*{out.type.endings[-1]}", RequestError
        )
    for ending in out.type.endings:
        path = Path(f"made{ending}")
        path.write_text("a letter")
        assert_refused(command, {out.name or "": str(path)}, "was not made by mmnet_maps", OutputError)
        path.write_text(" ".join(out.type.marks or ()))
        parse(command, {out.name or "": str(path)})


@pytest.mark.parametrize(("command", "out"), [pair for pair in OUTPUTS if pair not in FILES], ids=name)
def test_an_output_folder_has_a_name(command: click.Command, out: click.Parameter) -> None:
    for value in ("", " "):
        with pytest.raises(click.BadParameter, match="it is empty"):
            parse(command, {out.name or "": value})


@pytest.mark.parametrize("command", list(commands()), ids=name)
def test_an_option_of_one_value_is_given_once(command: click.Command) -> None:
    for param in command.params:
        if isinstance(param, click.Option) and not param.is_flag and not param.multiple:
            with pytest.raises(click.UsageError, match=f"{param.opts[0]} is given 2 times; give it once"):
                command.make_context("", [param.opts[0], "1", f"{param.opts[0]}=2"])


def test_a_stack_of_the_environment_is_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("s.zarr").mkdir()
    monkeypatch.setenv("MMNET_STACK", "s.zarr")
    assert_refused(map_command, {"out": "s.zarr"}, "is the input of MMNET_STACK", RequestError)


def test_a_stack_of_the_settings_file_is_an_input() -> None:
    Path("s.zarr").mkdir()
    Path("s.zarr", "zarr.json").touch()
    Path("mmnet.yaml").write_text("stack: s.zarr\nout: s.zarr/maps\n")
    options = dict.fromkeys(MapSettings.model_fields)
    with pytest.raises(RequestError, match="--out s.zarr/maps lies in s.zarr, the input of the settings; give another"):
        check_request(options)
    check_request(options | {"out": "maps"})


def test_the_picture_of_a_map_stays(tmp_path: Path) -> None:
    Path("aoi_20210808.json").write_text('{"properties": {"mmnet:fingerprint": "f"}}')
    Path("aoi_20210808.png").write_bytes(b"mmnet_maps")
    zones = mmnet.commands["zones"]
    assert_refused(zones, {"picture": "aoi_20210808.png"}, "is the picture of the map aoi_20210808.json", OutputError)


NUMBERS = [
    (command, param)
    for command, param in PARAMS
    if isinstance(param.type, click.types._NumberParamTypeBase) or param.type in (click.INT, click.FLOAT)
]


@pytest.mark.parametrize(("command", "option"), NUMBERS, ids=name)
def test_a_number_has_bounds(command: click.Command, option: click.Parameter) -> None:
    for text in ("nan", "inf", "-inf", "-1", "1e400", "", "many", "0x10", "-0.5"):
        with pytest.raises(click.BadParameter):
            parse(command, {option.name or "": text})
    if not isinstance(option.type, click.FloatRange):
        for text in ("99999999999999999999", "1.5", "1e3"):
            with pytest.raises(click.BadParameter):
                parse(command, {option.name or "": text})


def test_numbers_are_found() -> None:
    assert len(NUMBERS) >= 15
    assert {type(option.type).__name__ for _, option in NUMBERS} == {"IntRange", "Number"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("map --threads 100000", "100000 is not in the range 1<=x<=1024"),
        ("map --uncertainty 1000000", "1000000 is not in the range 0<=x<=1000"),
        ("batch --workers 100000", "100000 is not in the range 1<=x<=256"),
        ("batch --time-limit nan", "nan is not a finite number"),
    ],
)
def test_a_number_beyond_any_machine_is_refused(words: str, message: str) -> None:
    command, *rest = words.split()
    with pytest.raises(click.BadParameter, match=message):
        mmnet.commands[command].make_context(command, rest)


# ---- days, help and quiet --------------------------------------------------------------------------------------------


def test_every_command_has_the_same_habits() -> None:
    for command in commands():
        names = {option for param in command.params for option in param.opts}
        assert command is mmnet or {"--quiet", "-q", "--debug"} <= names, command.name
        assert ("--start" in names) == ("--end" in names) == ("--date" in names), command.name
    for main in (mmnet, map_command):
        for word in ("-h", "--help", "--version"):
            with pytest.raises(click.exceptions.Exit):
                main.make_context("", [word])


@pytest.mark.parametrize(
    ("dates", "start", "end", "found"),
    [
        (["2021-08-08"], None, None, ["2021-08-08"]),
        (["2021-08-01/2021-08-03", "latest"], None, None, ["2021-08-01/2021-08-03", "latest"]),
        ([], "2021-08-01", None, ["2021-08-01"]),
        (["2021-07-01"], "2021-08-01", "2021-08-02", "days are given twice"),
        ([], None, None, "no day is given"),
        ([], None, "2021-08-01", "--end is given without --start"),
        (
            [],
            "2021-08-01/2021-08-02",
            None,
            "--start 2021-08-01/2021-08-02 is a range.* use --date",
        ),
    ],
)
def test_days_are_given_in_two_spellings(
    dates: list[str], start: str | None, end: str | None, found: list[str] | str
) -> None:
    if isinstance(found, list):
        assert requested_days(dates, start, end) == found
        return
    with pytest.raises((click.UsageError, RequestError), match=found):
        requested_days(dates, start, end)


def test_a_period_has_two_spellings() -> None:
    assert period((), None, "2021-08-01") == (None, "2021-08-01")
    assert period(["2021-08-01/2021-08-03"], None, None) == ("2021-08-01", "2021-08-03")
    assert period(["2021-08-02", "2021-08-01"], None, None) == ("2021-08-01", "2021-08-02")
    with pytest.raises(RequestError, match="given twice; give either --date, or --start and --end"):
        period(["2021-08-01"], "2021-08-01", None)
    with pytest.raises(RequestError, match=r"no period \(2021-08-01 to 2021-08-03 with gaps\); give one range"):
        period(["2021-08-01", "2021-08-03"], None, None)


# ---- order -----------------------------------------------------------------------------------------------------------

BAD = """
map --aoi AREA --date 2021-13-01
map --aoi none.geojson --date DAY
map --aoi 10,50,11,51 --date DAY
map --aoi AREA --date DAY --source earthengines
map --aoi AREA --date DAY --source none.yaml
map --aoi AREA --date DAY --stack none.zarr
map --aoi AREA --date DAY --model none
map --aoi AREA --date DAY --config none.yaml
map --aoi AREA --date DAY --stack a --source demo
map --aoi AREA --date DAY --resolution -1
stack --aoi AREA --start yesterday --source demo --out s.zarr
stack --aoi none.gpkg --date DAY --source demo --out s.zarr
stack --aoi AREA --date DAY --source none --out s.zarr
stack --aoi AREA --date DAY --source demo --out s.zarr --model none
stack check none.zarr --date DAY
stack info s.zarr --start DAY --date DAY
batch --tiles h06v03 --date DAY --stack none.zarr
batch --tiles h06v03 --aoi AREA --date DAY --stack none.zarr
batch --aoi none.geojson --date latest
points --points -119,47 --date DAY --stack none.zarr --out s.csv
points --points -119,47 --date DAY --source none --out s.csv
points --points -119,47 --start 2021-02-30 --end DAY --source demo --out s.csv
points --points -119,47 --date DAY --source demo --model none --out s.csv
samples --observations o --source none --model mmnet-uscrn --out s.parquet
samples --observations o --source demo --model none --out s.parquet
"""


def test_bad_requests_import_nothing_heavy(tmp_path: Path) -> None:
    lines = [line.replace("AREA", AREA).replace("DAY", DAY).split() for line in BAD.strip().splitlines()]
    code = (
        "import sys; from mmnet_maps import cli\n"
        "heavy = {'torch', 'xarray', 'dask', 'rasterio', 'zarr', 'pyogrio', 'pandas', 'matplotlib', 'distributed'}\n"
        f"for line in {lines}:\n"
        "    sys.argv = ['mmnet', *line]\n"
        "    try: cli.main()\n"
        "    except SystemExit as end: assert end.code in (2, 3), line\n"
        "    assert not heavy & set(sys.modules), (line, heavy & set(sys.modules))\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^error: .+$", done.stderr, re.MULTILINE)) == len(lines)
