"""One training step, as fast as the device allows: on a GPU from the fifth on as one CUDA graph.

At the paper's batch of 32 a step is hundreds of small kernels, and launching them takes longer than they do. A graph
launches all of them at once. It can hold any method whose step never waits for the device: see `Method.capturable`.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from dml.method import Method

EAGER_STEPS = 3
"""Before a graph is captured: libraries choose their algorithms and optimisers make their states in the first ones."""
TOLERANCE = 0.05
"""How far what a replay adds to the weights may be from what the same step adds without a graph, as a share of it. Sums
on a GPU come in no fixed order, and RMSprop makes a change of full size of the smallest gradient."""


class Stepper:
    """Calls that each train the model with one batch, and add its loss to `total`.

    The first steps run as they are; then, on a GPU, the step is captured. The graph is used only if its first replay
    does what the step without it does; where capturing fails or the two differ, training goes on without a graph, and
    says so.
    """

    def __init__(
        self, model: nn.Module, method: Method, optimizers: Sequence[torch.optim.Optimizer], total: Tensor, device: str
    ) -> None:
        self.model, self.method, self.optimizers, self.total = model, method, optimizers, total
        self.captures = device.startswith("cuda") and method.capturable
        self.steps = 0
        self.batch: tuple[Tensor, Tensor] | None = None
        self.replay: Callable[[], None] | None = None

    def __call__(self, crops: Tensor, labels: Tensor) -> None:
        """Train with crops (B, 3, S, S) and labels (B,)."""
        self.steps += 1
        if self.replay is not None:
            self._fill(crops, labels)
            self.replay()
        elif self.captures and self.steps > EAGER_STEPS:
            self._capture(crops, labels)
        else:
            self._step(crops, labels)

    def _step(self, crops: Tensor, labels: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()  # forgets the gradients: a graph makes its own anew in each replay
        loss = self.method.objective(self.model(crops), labels)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.total += loss.detach()  # read once a validation: reading it each step would make the device wait

    def _capture(self, crops: Tensor, labels: Tensor) -> None:
        """Capture the step, and take it: without the graph, and with it for comparison."""
        self.batch = crops.clone(), labels.clone()
        try:
            replay = capture(lambda: self._step(*self.batch))
        except RuntimeError as error:
            self._give_up(" ".join(str(error).split())[:200])
            self._step(crops, labels)
            return
        before = self._copies()
        draws = torch.cuda.get_rng_state(crops.device) if crops.is_cuda else None
        replay()
        by_graph = self._copies()
        self._restore(before)
        if draws is not None:
            torch.cuda.set_rng_state(draws, crops.device)
        self._step(crops, labels)
        difference = self._difference(before, by_graph)
        if difference <= TOLERANCE:
            self.replay = replay
        else:
            self._give_up(f"its step differs by {difference:.2g} of the step without it")
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def _fill(self, crops: Tensor, labels: Tensor) -> None:
        self.batch[0].copy_(crops)
        self.batch[1].copy_(labels)

    def _give_up(self, reason: str) -> None:
        print(f"no CUDA graph of the training step, it goes on without: {reason}", file=sys.stderr)
        self.captures, self.batch = False, None

    def _parameters(self) -> Iterator[nn.Parameter]:
        yield from self.model.parameters()
        yield from self.method.parameters()

    def _state(self) -> Iterator[Tensor]:
        """Every tensor that a step changes; the parameters first."""
        yield from self._parameters()
        yield from self.model.buffers()
        yield from self.method.buffers()
        for optimizer in self.optimizers:
            for state in optimizer.state.values():
                yield from (value for value in state.values() if isinstance(value, Tensor))
        yield self.total

    def _copies(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._state()]

    @torch.no_grad()
    def _restore(self, copies: list[Tensor]) -> None:
        for tensor, copy in zip(self._state(), copies, strict=True):
            tensor.copy_(copy)

    def _difference(self, before: list[Tensor], by_graph: list[Tensor]) -> float:
        """Of the change by the graph and that which the model has now, in loss or weights, as a share of the latter."""
        loss, loss_by_graph = float(self.total - before[-1]), float(by_graph[-1] - before[-1])
        if not math.isfinite(loss):
            return 0.0  # diverged, which is said elsewhere
        apart = changed = 0.0
        for now, old, other in zip(self._parameters(), before, by_graph, strict=False):
            apart += float((now.detach() - other).double().square().sum())
            changed += float((now.detach() - old).double().square().sum())
        of_weights = math.sqrt(apart / max(changed, sys.float_info.min))
        difference = max(abs(loss_by_graph - loss) / max(abs(loss), 1e-6), of_weights)
        return difference if math.isfinite(difference) else math.inf


def capture(work: Callable[[], None]) -> Callable[[], None]:
    """A call that does what `work` does, on the same tensors, as one CUDA graph. RuntimeError if it cannot be one."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others are threads that copy batches
        work()
    return graph.replay
