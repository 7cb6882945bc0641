"""The limits of this machine, measured: what no program on it can go beyond. Each is the best of many tries."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.utils.mkldnn import to_mkldnn

SIDE, GPU_SIDE = 2048, 8192
"""Of the square matrices that are multiplied."""
COPIED = 256 * 2**20
"""Bytes, far more than any cache holds."""
SECONDS = 0.5
"""For so long each is tried."""
GPU_TYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def all_threads() -> str:
    """What a table says of where something ran that takes all cores."""
    return f"cpu, {cores()} thread{'s' if cores() > 1 else ''}"


@cache
def peak() -> float:
    """Float32 operations a second of the best matrix product on all cores: each multiplication and addition counts."""
    return max(product(threads=cores()) for product in PRODUCTS.values())


@cache
def gpu_peak(kind: str = "float32") -> float:
    """The same of the GPU, with float32, tf32 or bfloat16."""
    a, b = (torch.randn(GPU_SIDE, GPU_SIDE, device="cuda", dtype=GPU_TYPES[kind]) for _ in range(2))
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if kind == "tf32" else "ieee"
    try:
        return 2 * GPU_SIDE**3 / _best(lambda: torch.mm(a, b), torch.cuda.synchronize)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@cache
def bandwidth(threads: int) -> float:
    """Bytes a second that a copy in memory reads and writes."""
    source, target = torch.ones(COPIED // 4), torch.empty(COPIED // 4)
    with _torch_threads(threads):
        return 2 * COPIED / _best(lambda: target.copy_(source))


@cache
def gpu_bandwidth() -> float:
    """The same of the GPU's memory."""
    source, target = (torch.ones(COPIED, device="cuda") for _ in range(2))
    return 2 * source.nbytes / _best(lambda: target.copy_(source), torch.cuda.synchronize)


@cache
def numpy_product(threads: int) -> float:
    """Operations a second of numpy's matrix product, which is OpenBLAS's."""
    a, b, out = _matrices()
    with threadpool_limits(threads):
        return 2 * SIDE**3 / _best(lambda: np.matmul(a, b, out=out))


@cache
def torch_product(threads: int) -> float:
    """The same of PyTorch's, which is MKL's on x86."""
    a, b, out = map(torch.from_numpy, _matrices())
    with _torch_threads(threads):
        return 2 * SIDE**3 / _best(lambda: torch.mm(a, b, out=out))


@cache
def onednn_product(threads: int) -> float:
    """The same of oneDNN's, where PyTorch has it; else 0."""
    if not torch.backends.mkldnn.is_available():
        return 0.0
    layer = to_mkldnn(torch.nn.Linear(SIDE, SIDE, bias=False).eval())
    a = torch.from_numpy(_matrices()[0]).to_mkldnn()
    with _torch_threads(threads), torch.inference_mode():
        return 2 * SIDE**3 / _best(lambda: layer(a))


PRODUCTS = {"numpy": numpy_product, "PyTorch": torch_product, "oneDNN": onednn_product}


def _matrices() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((SIDE, SIDE), dtype=np.float32) for _ in range(3)]


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _best(function: Callable[[], object], wait: Callable[[], None] = lambda: None) -> float:
    """Its shortest seconds."""
    function()
    wait()
    taken, end = [], time.perf_counter() + SECONDS
    while not taken or time.perf_counter() < end:
        begin = time.perf_counter()
        function()
        wait()
        taken.append(time.perf_counter() - begin)
    return min(taken)
