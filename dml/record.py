"""What made a file: commit, code, versions, hardware. Written beside every result."""

import json
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dml import plugins
from dml.files import whole
from dml.protocol import TRAINING_CODE

EVALUATION_CODE = [
    Path(__file__).parent / f"{name}.py"
    for name in ("augmentation", "embedding", "evaluation", "images", "measuring", "model", "neighbours")
]
PACKAGES = ("torch", "numpy", "faiss-gpu", "optuna", "scikit-learn", "pytorch-metric-learning")


def provenance(device: str) -> dict[str, Any]:
    """Commit, versions, device and threads of this process."""
    import torch

    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
        "host": platform.node(),
        "threads": torch.get_num_threads(),
    }


@cache
def commit() -> str:
    """The git commit of the code, `+changes` where its files differ or are new; 'unknown' outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--", ".", ":/workflow", ":/Snakefile") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def training_code() -> str:
    """A hash of the code that every search and training runs through."""
    return plugins.code_hash(TRAINING_CODE)


def evaluation_code() -> str:
    """A hash of the code that leads from a finished model to its metrics."""
    metrics = [plugins.source_path("metrics", name) for name in plugins.names("metrics")]
    return plugins.code_hash([*EVALUATION_CODE, *metrics])


def write_json(path: Path, values: Any) -> None:
    """Write JSON, sorted and without NaN: equal values are equal bytes."""
    text = json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n"
    with whole(path) as temporary:
        temporary.write_text(text)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
