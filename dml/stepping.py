"""One training step, as fast as the device allows: on a GPU from the fifth on as one CUDA graph.

At the paper's batch of 32 a step is hundreds of small kernels, and launching them takes longer than they do. A graph
launches all of them at once. It can hold any method whose step never waits for the device: see `Method.capturable`.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dml.method import Method, Outputs
from dml.optimizers import Optimizer

EAGER_STEPS = 3
"""Before a graph is captured: libraries choose their algorithms and optimisers make their states in the first ones."""
LEARNT = ("embeddings", "features", "maps")
"""The outputs of a model that a loss has gradients by."""
TOLERANCE = 0.05
"""How far what a replay adds to the weights may be from what the same step adds without a graph, as a share of it. Sums
on a GPU come in no fixed order, and RMSprop makes a change of full size of the smallest gradient."""


class Stepper:
    """Calls that each train the model with one batch, and add its loss to `total`.

    A batch of more images than `part` goes through the model twice: first without a gradient, for the loss of all and
    its gradient by the outputs, then in parts with that gradient, so that never more than one part is remembered. The
    gradient is the same: Revaud et al., "Learning with Average Precision: Training Image Retrieval with a Listwise
    Loss", ICCV 2019, section 3.3. A `teacher` is a finished model, whose embeddings the method sees too.

    The first steps run as they are; then, on a GPU, the step is captured. The graph is used only if the step waits for
    nothing, changes no plain attribute of a module, which a graph would not change again, and if the first replay does
    what the step without it does. Else training goes on without a graph, and says so.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        optimizers: Sequence[Optimizer],
        total: Tensor,
        device: str,
        part: int | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        self.model, self.method, self.optimizers, self.total = model, method, optimizers, total
        self.part, self.teacher = part, teacher
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
        elif self.captures and self.steps > EAGER_STEPS and self._is_whole(crops):
            self._try_graph(crops, labels)
        else:
            self._step(crops, labels)

    def forget_graph(self) -> None:
        """Run the next steps as they are, then capture anew: after a change of what a graph holds as plain numbers."""
        self.steps, self.batch, self.replay = 0, None, None

    def _step(self, crops: Tensor, labels: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()  # forgets the gradients: a graph makes its own anew in each replay
        loss = (self._backward if self._is_whole(crops) else self._backward_in_parts)(crops, labels)
        for optimizer in self.optimizers:
            optimizer.step()
        self.total += loss.detach()  # read once a validation: reading it each step would make the device wait

    def _is_whole(self, crops: Tensor) -> bool:
        return self.part is None or len(crops) <= self.part

    def _backward(self, crops: Tensor, labels: Tensor) -> Tensor:
        loss = self.method.objective(self._outputs(crops), labels)
        loss.backward()
        return loss

    def _backward_in_parts(self, crops: Tensor, labels: Tensor) -> Tensor:
        parts, before = crops.split(self.part), _generator_state(crops.device)
        with torch.no_grad():
            found = [self._outputs(part) for part in parts]
        outputs = Outputs(*(None if tensors[0] is None else torch.cat(tensors) for tensors in zip(*found, strict=True)))
        given = {name: getattr(outputs, name) for name in LEARNT if getattr(outputs, name) is not None}
        for tensor in given.values():
            tensor.requires_grad_()
        loss = self.method.objective(outputs, labels)
        loss.backward()
        gradients = {name: tensor.grad.split(self.part) for name, tensor in given.items() if tensor.grad is not None}
        after = _generator_state(crops.device)
        _set_generator_state(crops.device, before)  # layers that draw must draw the same again
        for k, part in enumerate(parts):
            again = self.model(part)
            torch.autograd.backward([getattr(again, name) for name in gradients], [g[k] for g in gradients.values()])
        _set_generator_state(crops.device, after)
        return loss

    def _outputs(self, crops: Tensor) -> Outputs:
        outputs = self.model(crops)
        if not self.method.needs_maps:
            outputs = outputs._replace(maps=None)
        if self.teacher is not None:
            with torch.no_grad():
                outputs = outputs._replace(teacher=self.teacher(crops).embeddings)
        return outputs

    def _try_graph(self, crops: Tensor, labels: Tensor) -> None:
        """Take the step without a graph; capture it; keep the graph if its replay gives the same."""
        self.batch = crops.clone(), labels.clone()
        before, plain = self._copies(), self._plain_attributes()
        draws = _generator_state(crops.device) if crops.is_cuda else None
        try:
            with _refusing_to_wait(crops.is_cuda):
                self._step(crops, labels)
            changed = sorted(name for name, value in self._plain_attributes().items() if plain.get(name) != value)
            if changed:
                raise RuntimeError(f"it changes {', '.join(changed)}")
            after = self._copies()
            draws_after = _generator_state(crops.device) if crops.is_cuda else None
            self._restore(before, draws)
            replay = capture(lambda: self._step(*self.batch), crops.device)
            replay()
            difference = self._difference(before, after)
            if difference > TOLERANCE:
                raise RuntimeError(f"its step differs by {difference:.2g} of the step without it")
            self._restore(after, draws_after)
            self.replay = replay
        except (RuntimeError, AssertionError, ValueError) as error:  # out of memory is a RuntimeError
            reason = " ".join(str(error).split())[:200]
            print(f"no CUDA graph of the training step, it goes on without: {reason}", file=sys.stderr)
            self.captures, self.batch = False, None
            self._restore(before, draws)
            self._step(crops, labels)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        if crops.is_cuda:
            torch.cuda.empty_cache()  # what the step without the graph took

    def _fill(self, crops: Tensor, labels: Tensor) -> None:
        self.batch[0].copy_(crops)
        self.batch[1].copy_(labels)

    def _parameters(self) -> Iterator[nn.Parameter]:
        yield from self.model.parameters()
        yield from self.method.parameters()

    def _state(self) -> Iterator[Tensor]:
        """Every tensor that a step changes; the parameters first."""
        yield from self._parameters()
        yield from self.model.buffers()
        yield from self.method.buffers()
        for optimizer in self.optimizers:
            for state in optimizer.state:
                yield from state.values()
        yield self.total

    def _copies(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._state()]

    @torch.no_grad()
    def _restore(self, copies: list[Tensor], draws: Tensor | None) -> None:
        for tensor, copy in zip(self._state(), copies, strict=True):
            tensor.copy_(copy)
        if draws is not None:
            _set_generator_state(self.total.device, draws)

    def _plain_attributes(self) -> dict[str, bool | int | float | str]:
        return {
            ".".join(filter(None, (type(part).__name__, name, key))): value
            for part in (self.model, self.method)
            for name, module in part.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, (bool, int, float, str))
        }

    def _difference(self, before: list[Tensor], after: list[Tensor]) -> float:
        """Of the change by the graph, which the model has now, from that to `after`, as a share of the latter.

        The largest of the loss, the model's weights and the method's, which may learn much faster.
        """
        loss_by_graph, loss = float(self.total - before[-1]), float(after[-1] - before[-1])
        if not math.isfinite(loss):
            return 0.0  # diverged, which is said elsewhere
        differences = [abs(loss_by_graph - loss) / max(abs(loss), 1e-6)]
        facts = zip(self._parameters(), before, after, strict=False)
        for part in (self.model, self.method):
            apart = changed = 0.0
            for _, (now, old, other) in zip(part.parameters(), facts, strict=False):  # in this order: none is lost
                apart += float((now.detach() - other).double().square().sum())
                changed += float((other - old).double().square().sum())
            differences.append(math.sqrt(apart / max(changed, sys.float_info.min)))
        return max(differences) if all(map(math.isfinite, differences)) else math.inf


def _generator_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_generator_state(device: torch.device, state: Tensor) -> None:
    torch.cuda.set_rng_state(state, device) if device.type == "cuda" else torch.set_rng_state(state)


def capture(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A call that does what `work` does, on the same tensors, as one CUDA graph. RuntimeError if it cannot be one."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    # The stream is this device's, and left again whatever happens; other threads, which copy batches, may go on.
    with (
        torch.cuda.device(device),
        torch.cuda.stream(stream),
        torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
    ):
        work()
    return graph.replay


@contextmanager
def _refusing_to_wait(is_gpu: bool) -> Iterator[None]:
    """Operations that wait for the GPU raise RuntimeError: found out in a capture, they would leave it half done."""
    if not is_gpu:
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
