"""The optimisers of a protocol: the steps of PyTorch's, bit for bit.

PyTorch's steps, not its classes: the first use of any class of `torch.optim` imports PyTorch's compiler, which takes a
second of each of a study's thousands of processes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

SMOOTHING = 0.99
"""Of RMSprop's mean square. This and the numbers below are the defaults of PyTorch, and so of the papers' code."""
SECOND_BETA = 0.999
"""Of Adam's mean square."""
EPSILON = 1e-8


class Optimizer:
    """All parameters of one learning rate. What it counts and averages is where they are, also in a CUDA graph.

    ValueError if a value is negative.
    """

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float, momentum: float, weight_decay: float):
        if not (learning_rate >= 0 and momentum >= 0 and weight_decay >= 0):
            given = f"learning rate {learning_rate}, momentum {momentum}, weight decay {weight_decay}"
            raise ValueError(f"{given}: expected none below 0")
        self.parameters = list(parameters)
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.waits = False
        """Whether it leaves the parameters as they are for now."""
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
        if self.waits or not trained:
            return
        for parameter, state in trained:
            if not state:
                state.update(self.fresh(parameter))
        parameters = [parameter for parameter, _ in trained]
        state = {key: [own[key] for _, own in trained] for key in trained[0][1]}
        self.change(parameters, [parameter.grad for parameter in parameters], state)

    def fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        """The state before the first step."""
        raise TypeError(f"{type(self).__name__} has no fresh(parameter)")

    def change(self, parameters: list[Tensor], gradients: list[Tensor], state: dict[str, list[Tensor]]) -> None:
        """Change parameters and their state in place."""
        raise TypeError(f"{type(self).__name__} has no change(parameters, gradients, state)")

    def state_dict(self) -> list[dict[str, Tensor]]:
        """The state, not a copy of it."""
        return self.state

    def load_state_dict(self, state: Sequence[dict[str, Tensor]]) -> None:
        """Take a state of the same parameters, wherever it was."""
        self.state = [
            {name: value.to(parameter.device) for name, value in own.items()}
            for parameter, own in zip(self.parameters, state, strict=True)
        ]


class RMSprop(Optimizer):
    """RMSprop with momentum."""

    def fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        return {
            "step": torch.zeros((), device=parameter.device),
            "square_avg": torch.zeros_like(parameter),
            "momentum_buffer": torch.zeros_like(parameter),
        }

    def change(self, parameters: list[Tensor], gradients: list[Tensor], state: dict[str, list[Tensor]]) -> None:
        rmsprop(
            parameters, gradients, state["square_avg"], [], state["momentum_buffer"], state["step"], foreach=True,
            capturable=parameters[0].is_cuda, lr=self.learning_rate, alpha=SMOOTHING, eps=EPSILON,
            weight_decay=self.weight_decay, momentum=self.momentum, centered=False,
        )  # fmt: skip


class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    def fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        # PyTorch begins with the first gradient: momentum times nothing, and that
        return {"momentum_buffer": torch.zeros_like(parameter)}

    def change(self, parameters: list[Tensor], gradients: list[Tensor], state: dict[str, list[Tensor]]) -> None:
        sgd(
            parameters, gradients, state["momentum_buffer"], foreach=True, lr=self.learning_rate,
            weight_decay=self.weight_decay, momentum=self.momentum, dampening=0.0, nesterov=False, maximize=False,
        )  # fmt: skip


class Adam(Optimizer):
    """Adam, the weight decay added to the gradient. Momentum is that of its mean, 0.9 in PyTorch."""

    decoupled = False

    def fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        return {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }

    def change(self, parameters: list[Tensor], gradients: list[Tensor], state: dict[str, list[Tensor]]) -> None:
        adam(
            parameters, gradients, state["exp_avg"], state["exp_avg_sq"], [], state["step"], foreach=True,
            capturable=parameters[0].is_cuda, lr=self.learning_rate, beta1=self.momentum, beta2=SECOND_BETA,
            eps=EPSILON, weight_decay=self.weight_decay, amsgrad=False, maximize=False,
            decoupled_weight_decay=self.decoupled,
        )  # fmt: skip


class AdamW(Adam):
    """Adam with the weight decay apart from the gradient."""

    decoupled = True


OPTIMIZERS = {"rmsprop": RMSprop, "sgd": SGD, "adam": Adam, "adamw": AdamW}
"""By their names in a protocol."""
