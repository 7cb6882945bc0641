"""What the stages import: each starts a process of its own, thousands in a study, and loads only what it needs."""

import subprocess
import sys

import pytest
from project import ROOT

STAGES = {path.stem for path in (ROOT / "dml" / "stages").glob("[a-z]*.py")}
PROGRAM = """
import importlib, sys
for stage in sys.argv[2:]:
    importlib.import_module(f"dml.stages.{stage}")
    loaded = set(sys.argv[1].split()) & set(sys.modules)
    assert not loaded, f"{stage} imports {loaded}"
"""


@pytest.mark.parametrize(
    "modules, needed_by",
    [
        ("torch", {"train_trial", "train_final"}),
        ("pandas scipy", {"tables", "figures", "report", "gallery"}),
        ("matplotlib", {"figures"}),
        ("optuna sklearn faiss torchvision pytorch_metric_learning", set()),
    ],
)
def test_a_stage_starts_without_what_only_others_need(modules, needed_by):
    """`embed`, `measure` and `propose` import theirs once they know that there is something to do with it."""
    assert needed_by <= STAGES
    command = [sys.executable, "-c", PROGRAM, modules, *sorted(STAGES - needed_by)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
