"""RMSprop with momentum, the optimiser of the protocol: the step of `torch.optim.RMSprop`, bit for bit.

PyTorch's step, not its class: the first use of any class of `torch.optim` imports PyTorch's compiler, which takes a
second of each of a study's thousands of processes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.rmsprop import rmsprop

SMOOTHING, EPSILON = 0.99, 1e-8
"""The defaults of PyTorch, and so of the paper's code."""


class RMSprop:
    """All parameters of one learning rate. What it counts and averages is where they are, also in a CUDA graph.

    ValueError if a value is negative.
    """

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float, momentum: float, weight_decay: float):
        if not (learning_rate >= 0 and momentum >= 0 and weight_decay >= 0):
            given = f"learning rate {learning_rate}, momentum {momentum}, weight decay {weight_decay}"
            raise ValueError(f"{given}: expected none below 0")
        self.parameters = list(parameters)
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.state: list[dict[str, Tensor]] = [{} for _ in self.parameters]
        """Of each parameter; empty until it has a gradient."""

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter that has a gradient."""
        trained = [(p, state) for p, state in zip(self.parameters, self.state, strict=True) if p.grad is not None]
        for parameter, state in trained:
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["square_avg"] = torch.zeros_like(parameter)
                state["momentum_buffer"] = torch.zeros_like(parameter)
        if trained:
            rmsprop(
                [parameter for parameter, _ in trained],
                [parameter.grad for parameter, _ in trained],
                [state["square_avg"] for _, state in trained],
                [],
                [state["momentum_buffer"] for _, state in trained],
                [state["step"] for _, state in trained],
                foreach=True,
                capturable=trained[0][0].is_cuda,
                lr=self.learning_rate,
                alpha=SMOOTHING,
                eps=EPSILON,
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                centered=False,
            )

    def state_dict(self) -> list[dict[str, Tensor]]:
        """The state, not a copy of it."""
        return self.state

    def load_state_dict(self, state: Sequence[dict[str, Tensor]]) -> None:
        """Take a state of the same parameters, wherever it was."""
        self.state = [
            {name: value.to(parameter.device) for name, value in own.items()}
            for parameter, own in zip(self.parameters, state, strict=True)
        ]
