"""One list of pinned packages, and the same for pip, conda, Docker and Apptainer."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ENVS = ROOT / "envs"
FILES = ("requirements.in", "requirements.txt", "environment.yaml", "Dockerfile", "apptainer.def")
RECIPES = ("Dockerfile", "apptainer.def")


def requirements(lines):
    """Package, with the condition under which it is meant -> version, '' where it is free."""
    found = {}
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            package, _, condition = (part.strip() for part in line.partition(";"))
            name, _, version = package.partition("==")
            found[name.lower(), condition] = version
    return found


def lines(name):
    return (ENVS / name).read_text().splitlines()


def conda():
    """Python's version and the packages of the conda file."""
    python, *_, last = yaml.safe_load((ENVS / "environment.yaml").read_text())["dependencies"]
    return python.removeprefix("python="), last["pip"]


def test_every_version_is_pinned_and_the_same_everywhere():
    lock = requirements(lines("requirements.txt"))
    assert all(re.fullmatch(r"[\w.+!]+", version) for version in lock.values())
    assert requirements(conda()[1]) == lock
    versions = {}
    for (name, _), version in lock.items():
        versions.setdefault(name, set()).add(version)
    for (name, _), version in requirements(lines("requirements.in")).items():
        assert versions[name] == {version} if version else versions[name], name


def test_every_image_holds_the_same_python():
    version = conda()[0]
    assert f"FROM python:{version}-slim" in lines("Dockerfile")
    assert f"From: python:{version}-slim" in lines("apptainer.def")
    minimum = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert [int(part) for part in version.split(".")] >= [int(part) for part in minimum.split(".")]


@pytest.mark.parametrize("name", RECIPES)
def test_images_install_the_lock_and_nothing_else(name):
    text = (ENVS / name).read_text()
    assert re.search(r"^\W*(?:COPY )?envs/requirements\.txt /tmp/requirements\.txt$", text, re.MULTILINE)
    assert re.findall(r"pip install (.*)", text) == ["--no-cache-dir -r /tmp/requirements.txt"]


def test_the_recipes_do_the_same():
    steps = [re.findall(r"(?:apt-get|git config|pip) .*", (ENVS / name).read_text()) for name in RECIPES]
    assert steps[0] == steps[1] and len(steps[0]) == 3


@pytest.mark.parametrize("name", FILES)
def test_no_address_of_a_package_index_is_written_down(name):
    assert not re.search(r"https?://|--(extra-)?index|--find-links", (ENVS / name).read_text())


def test_torch_is_none_that_breaks_torchvision():
    assert requirements(lines("requirements.txt"))["torch", ""] != "2.13.0"


def test_readme_and_recipes_name_the_same_commands():
    readme = (ENVS / "README.md").read_text()
    for command in ("docker build -f envs/Dockerfile -t dml .", "apptainer build envs/dml.sif envs/apptainer.def"):
        assert command in readme
        assert any(command in (ENVS / name).read_text() for name in RECIPES)


@pytest.mark.skipif((ENVS / "dml.sif").exists(), reason="the image is there")
def test_an_image_that_is_not_there_is_said_in_one_line(tmp_path):
    command = ["snakemake", "-n", "--snakefile", ROOT / "Snakefile", "--sdm", "apptainer"]
    answer = subprocess.run(
        [Path(sys.executable).parent / command[0], *command[1:]], cwd=tmp_path, capture_output=True, text=True
    )
    assert answer.returncode != 0
    (line,) = [line for line in answer.stderr.splitlines() if "error" in line.lower()]
    assert line.endswith("envs/dml.sif: no such file: build the image first, as envs/README.md says")
