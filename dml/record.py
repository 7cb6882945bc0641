"""What made a file: commit, code, versions, hardware. Written beside every result."""

import json
import platform
import resource
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dml import plugins
from dml.files import set_aside, whole
from dml.protocol import TRAINING_CODE

EMBEDDING_CODE = [
    Path(__file__).parent / f"{name}.py"
    for name in ("augmentation", "embedding", "finished", "images", "loading", "model")
]
EVALUATION_CODE = [
    *EMBEDDING_CODE,
    *(
        Path(__file__).parent / f"{name}.py"
        for name in ("binary", "counting", "counting_on_gpu", "evaluation", "measuring", "neighbours", "reranking")
    ),
]
USERS_OWN = (":(top,exclude)workflow/profiles", ":(top,exclude)workflow/studies")
"""What users are to change; studies have fingerprints of their own."""
PACKAGES = ("torch", "numpy", "scipy", "numba", "faiss-gpu", "optuna", "scikit-learn", "pytorch-metric-learning")


def provenance(device: str, threads: int) -> dict[str, Any]:
    """Commit, versions, hardware, threads and memory of this process."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        **hardware(device),
        "threads": threads,
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "peak_gpu_memory_mb": _peak_gpu_memory_mb(device) if _is_gpu(device) else None,
    }


def hardware(device: str) -> dict[str, str]:
    """Where this process computes: host, kind of device (cpu or cuda) and its name."""
    name = _gpu(device) if _is_gpu(device) else _processor()
    return {"host": platform.node(), "device_type": "cuda" if _is_gpu(device) else "cpu", "device": name}


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
            "+changes" if git("status", "--porcelain", "--", ".", ":/Snakefile", ":/workflow", *USERS_OWN) else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def of_models(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whose results a file holds: data set, method, seed and the checksums of the models of its folds."""
    return {key: records[0][key] for key in ("dataset", "method", "seed")} | {
        "models": [record["model"] for record in records]
    }


def training_code() -> str:
    """A hash of the code that every search and training runs through."""
    return plugins.code_hash(TRAINING_CODE)


def embedding_code() -> str:
    """A hash of the code that leads from a finished model to its embeddings, but for the trunk's."""
    return plugins.code_hash(EMBEDDING_CODE)


def space_code() -> str:
    """A hash of the code that leads from a finished model to the geometry of its training classes."""
    return plugins.code_hash([*EMBEDDING_CODE, Path(__file__).parent / "embedding_space.py"])


def evaluation_code() -> str:
    """A hash of the code that leads from a finished model to its metrics."""
    metrics = [plugins.source_path("metrics", name) for name in plugins.names("metrics")]
    return plugins.code_hash([*EVALUATION_CODE, *metrics])


def write_json(path: Path, values: Any) -> None:
    """Write JSON, sorted and without NaN: equal values are equal bytes."""
    text = json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n"
    with whole(path) as temporary:
        temporary.write_text(text)


def read_json(path: Path) -> Any:
    """What `write_json` wrote. ValueError naming a file that is no longer so: it is set aside."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        set_aside(path, f"damaged ({error})")


def _is_gpu(device: str) -> bool:
    return device.startswith("cuda")


def _gpu(device: str) -> str:
    import torch  # where only processors are asked for, PyTorch need not be loaded

    return torch.cuda.get_device_name(device)


def _peak_gpu_memory_mb(device: str) -> int:
    import torch

    return round(torch.cuda.max_memory_allocated(device) / 2**20)


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
