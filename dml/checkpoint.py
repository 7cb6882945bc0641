"""The state of a training that has not ended: a training that is killed goes on from it as if nothing had happened."""

import hashlib
import io
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

import torch

from dml.files import whole

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks a training to stop: a batch system's limit or cancellation, Ctrl-C, a closed terminal."""


class Checkpoint:
    """The state file of one training, and the wish of others that the training stop.

    The file begins with the SHA-256 of the rest, a dict in PyTorch's format of tensors and plain values. It counts only
    for a training of the same `identity`. Without a path nothing is saved and signals do what they always do.

    As a context manager it listens: a signal to stop is remembered until the training asks with `stop_if_asked`.
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
        try:
            saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # whatever another version of PyTorch may raise
            reason = " ".join(str(error).split())[:100]
            print(f"{self.path}: cannot be read ({reason}); the training starts anew", file=sys.stderr)
            return None
        if saved["identity"] != self.identity:
            print(f"{self.path}: of another setting, code, data or PyTorch; the training starts anew", file=sys.stderr)
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
            self._stop()

    def __enter__(self) -> Self:
        # Python runs handlers in the main thread only, and lets no other thread set them.
        if self.path is not None and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                    self._handlers[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        if self._signal is not None and exception[0] is None:
            self._stop()  # it came after the last question: a job may have more to train

    def _stop(self) -> NoReturn:
        name = signal.Signals(self._signal).name
        print(f"\nstopped by {name}; the training goes on from here when it is run again", file=sys.stderr)
        sys.exit(128 + self._signal)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
