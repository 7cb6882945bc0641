"""What the README says works as it stands there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dml import plugins, schemas

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_notebook_lines_run(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    found = dict(re.findall(r"'(\w+)': ([\d.]+)", answer.stdout))
    assert float(found["precision_at_1"]) > 0.2 and float(found["map_at_r"]) > 0.05


def test_the_example_loss_passes_the_tests_of_all_losses(tmp_path):
    code = re.search(r'    """What it computes, and where.*?negatives\)\n(?=\n`make test`)', README, re.DOTALL)[0]
    for part in ("benchmarks", "dml", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    (tmp_path / "dml/methods/my_loss.py").write_text(re.sub(r"^    ", "", code, flags=re.MULTILINE) + "\n")
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/test_methods.py", "-k", "my_loss"],
        cwd=tmp_path, env={"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout
    assert int(re.search(r"(\d+) passed", answer.stdout)[1]) > 20


def test_named_studies_targets_and_folders_exist():
    for study in re.findall(r"study=([a-z]\w+)", README):
        assert (ROOT / "workflow" / "studies" / f"{study}.yaml").is_file()
    targets = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake (\w+)", README):
        assert re.search(rf"^{target}:", targets, re.MULTILINE), target
    for folder in re.findall(r"`dml/(\w+)/`", README):
        assert folder in plugins.KINDS


@pytest.mark.parametrize("path", schemas.files())
def test_written_from_the_models(path):
    assert (ROOT / path).read_text() == schemas.files()[path], "write it anew: python -m dml.schemas"
