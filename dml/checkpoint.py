"""The state of a training that has not ended: a training that is killed goes on from it as if nothing had happened."""

import ctypes
import hashlib
import io
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch

from dml.files import whole

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks a training to stop: a batch system's limit or cancellation, Ctrl-C, a closed terminal."""


PR_SET_PDEATHSIG = 1
"""Of <linux/prctl.h>."""


class Checkpoint:
    """The state file of one training, and the wish of others that the training stop.

    The file begins with the SHA-256 of the rest, a dict in PyTorch's format of tensors and plain values. It counts only
    for a training of the same `identity`. Without a path nothing is saved and signals do what they always do.

    As a context manager it listens: a signal to stop is remembered until the training asks with `stop_if_asked`. The
    end of the process that started this one, even by kill -9, is such a signal (on Linux): else a training whose
    workflow is gone would keep its GPU, and be trained twice when the workflow is started again.
    """

    def __init__(self, path: Path | None = None, identity: Mapping[str, Any] | None = None) -> None:
        self.path, self.identity = path, dict(identity or {})
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def load(self) -> dict[str, Any] | None:
        """The state to go on from; None where there is none, or none that is whole and of this training."""
        if self.path is None or not self.path.exists():
            return None
        digest, _, data = self.path.read_bytes().partition(b"\n")
        if hashlib.sha256(data).hexdigest() != digest.decode(errors="replace"):
            print(f"{self.path}: damaged; the training starts anew", file=sys.stderr)
            return None
        saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if saved["identity"] != self.identity:
            print(f"{self.path}: of another setting, code or data; the training starts anew", file=sys.stderr)
            return None
        return saved["state"]

    def save(self, state: Mapping[str, Any]) -> None:
        """Take the place of the state before. A dict of tensors and plain values."""
        if self.path is None:
            return
        buffer = io.BytesIO()
        torch.save({"identity": self.identity, "state": dict(state)}, buffer)
        data = buffer.getbuffer()
        with whole(self.path) as temporary, temporary.open("wb") as file:
            file.write(hashlib.sha256(data).hexdigest().encode() + b"\n")
            file.write(data)

    def stop_if_asked(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Save what `state` gives and end the process (SystemExit, 128 + signal) if a signal asked for it."""
        if self._signal is not None:
            self.save(state())
            name = signal.Signals(self._signal).name
            print(f"\nstopped by {name}; the training goes on from here when it is run again", file=sys.stderr)
            sys.exit(128 + self._signal)

    def remove(self) -> None:
        """The training's results are written: its state, and what killed processes left of it, is of no more use."""
        if self.path is not None:
            for file in [self.path, *self.path.parent.glob(f".{self.path.name}.*")]:
                file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        # Python runs handlers in the main thread only, and lets no other thread set them.
        if self.path is not None and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                    self._handlers[number] = signal.signal(number, self._remember)
            _signal_when_parent_ends(signal.SIGTERM)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._handlers:
            _signal_when_parent_ends(0)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signal = number


def _signal_when_parent_ends(number: int) -> None:
    """Let the kernel send this process a signal when its parent ends; 0 for none."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
