"""Any loss and miner of pytorch-metric-learning (PML) as a method, named as `dml.pml_arguments` describes."""

import importlib
import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dml.method import Method
from dml.pml_arguments import Description, class_and_arguments, is_description, ranges, with_parameters

INNER_KINDS = ("distances", "reducers", "regularizers", "losses", "miners")
"""Where the class of an argument's value may be: in the one that the argument is named after, else in any."""


class PMLMethod(Method):
    """A PML loss, with a miner in front of it or None.

    Wherever a constructor asks for the number of classes or the embedding size, it is given them; an argument that has
    a default gets them by the values "num_classes" and "embedding_size", for example
    {"MarginLoss": {"learn_beta": True, "num_classes": "num_classes"}}. ValueError for an unknown class or argument.

    What the loss does is PML's: it normalises the embeddings if its distance does. SmoothAPLoss of PML 2.9 is right
    only for batches of as many classes as images per class.
    """

    capturable = False

    def __init__(self, num_classes: int, embedding_size: int, loss: Description, miner: Description | None = None):
        super().__init__()
        # P2SGradLoss has another name for the embedding size.
        sizes = {"num_classes": num_classes, "embedding_size": embedding_size, "descriptors_dim": embedding_size}
        self.loss = _build(loss, ("losses",), sizes)
        self.miner = None if miner is None else _build(miner, ("miners",), sizes)

    def get_extra_state(self) -> dict[str, dict[str, Any]]:
        """What some losses keep from batch to batch beside weights and buffers, such as a place in a memory."""
        return {name: _plain_attributes(module) for name, module in self.named_modules()}

    def set_extra_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        for name, module in self.named_modules():
            now = vars(module)
            for key, value in state[name].items():
                now[key] = value.to(now[key].device) if isinstance(now.get(key), Tensor) else value

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if not torch.isfinite(embeddings).all():
            return (
                embeddings.sum() * torch.nan
            )  # some of PML's losses and miners raise here: a diverged training, no bug
        return self.loss(embeddings, labels, None if self.miner is None else self.miner(embeddings, labels))


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    kept = {key: value for key, value in vars(module).items() if isinstance(value, int | float | Tensor)}
    return {key: value for key, value in kept.items() if key != "training"}


def build_pml_method(
    num_classes: int,
    embedding_size: int,
    loss: Description,
    miner: Description | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> PMLMethod:
    """The method whose descriptions have a trial's `parameters` in place of their ranges."""
    return PMLMethod(num_classes, embedding_size, *with_parameters(loss, miner, parameters or {}))


def check(loss: Description, miner: Description | None = None) -> bool:
    """Whether the loss has weights of its own.

    ValueError if loss and miner cannot be built, or cannot be computed on a small batch of random embeddings.
    """
    middles = {name: _middle(searched) for name, searched in ranges(loss, miner).items()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        method = build_pml_method(4, 8, loss, miner, middles)
        try:
            for _ in range(2):  # some losses keep something of a batch, and stumble over it in the next
                value = method(torch.randn(16, 8, requires_grad=True), torch.arange(16) // 4)
                value.backward()
        except Exception as error:
            names = " with ".join(next(iter(description)) for description in (loss, miner) if description)
            raise ValueError(f"PML's {names} does not work on embeddings and labels: {_one_line(error)}") from None
    return any(True for _ in method.parameters())


def _build(value: Any, kinds: tuple[str, ...], sizes: dict[str, int]) -> Any:
    """The object that a description stands for, its arguments built first."""
    if not is_description(value):
        raise ValueError(f"{' or '.join(kinds)} of PML: expected {{Class: {{argument: value}}}}, not {value!r}")
    class_name, arguments = class_and_arguments(value)
    cls = _class(class_name, kinds)
    accepted = _constructor_arguments(cls)
    for name in arguments:
        if name not in accepted:
            raise ValueError(f"PML's {class_name} has no argument '{name}'; it takes: {', '.join(sorted(accepted))}")
    values = {name: _build_argument(name, argument, sizes) for name, argument in arguments.items()}
    needed = {name: size for name, size in sizes.items() if accepted.get(name)}
    try:
        return cls(**needed | values)
    except Exception as error:
        raise ValueError(f"PML's {class_name} refuses its arguments: {_one_line(error)}") from None


def _build_argument(name: str, value: Any, sizes: dict[str, int]) -> Any:
    if is_description(value):
        kinds = tuple(kind for kind in INNER_KINDS if kind.startswith(name.split("_")[-1]))
        return _build(value, kinds or INNER_KINDS, sizes)
    if isinstance(value, Mapping):
        return {key: _build_argument(name, inner, sizes) for key, inner in value.items()}
    if isinstance(value, list):
        return [_build_argument(name, inner, sizes) for inner in value]
    return sizes.get(value, value) if isinstance(value, str) else value


def _class(name: str, kinds: tuple[str, ...]) -> type:
    modules = [importlib.import_module(f"pytorch_metric_learning.{kind}") for kind in kinds]
    classes = {
        key: member
        for module in modules
        for key, member in vars(module).items()
        if isinstance(member, type) and issubclass(member, nn.Module) and not key.startswith(("Base", "Generic"))
    }
    if name not in classes:
        raise ValueError(f"PML has no '{name}' in {', '.join(kinds)}; choose from: {', '.join(sorted(classes))}")
    return classes[name]


def _constructor_arguments(cls: type) -> dict[str, bool]:
    """Argument -> whether it must be given. A constructor with **kwargs hands them to the next class in line.

    What such a next class needs, the one before it gives; only the sizes come from us.
    """
    found: dict[str, bool] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = [p for p in inspect.signature(base.__init__).parameters.values() if p.name != "self"]
        for parameter in parameters:
            needed = parameter.default is parameter.empty
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if named and (not needed or base is cls or parameter.name in ("num_classes", "embedding_size")):
                found.setdefault(parameter.name, needed)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _middle(searched: Mapping[str, Any]) -> Any:
    if "choices" in searched:
        return searched["choices"][0]
    low, high = searched["low"], searched["high"]
    middle = math.sqrt(low * high) if searched.get("log") else (low + high) / 2
    return round(middle) if searched.get("integer") else middle


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
