"""The optimisers beside PyTorch's."""

import subprocess
import sys

import pytest
import torch

from dml.optimizers import OPTIMIZERS, SGD, Adam, AdamW, RMSprop

SHAPES = [(5,), (7, 3), (4, 3, 2, 2), ()]


def parameters():
    generator = torch.Generator().manual_seed(0)
    found = [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]
    found[2].data = found[2].data.to(memory_format=torch.channels_last)
    return found


def steps(parameters, optimizer, first, end):
    for n in range(first, end):
        generator = torch.Generator().manual_seed(n)
        optimizer.zero_grad()
        for i, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape, generator=generator)
            if not (i == 1 and n % 3 == 0):  # a step without a gradient is none of this weight
                parameter.grad = gradient
        optimizer.step()


PYTORCHS = {
    RMSprop: lambda weights, momentum, decay: torch.optim.RMSprop(
        weights, lr=1e-2, momentum=momentum, weight_decay=decay
    ),
    SGD: lambda weights, momentum, decay: torch.optim.SGD(weights, lr=1e-2, momentum=momentum, weight_decay=decay),
    Adam: lambda weights, momentum, decay: torch.optim.Adam(
        weights, lr=1e-2, betas=(momentum, 0.999), weight_decay=decay
    ),
    AdamW: lambda weights, momentum, decay: torch.optim.AdamW(
        weights, lr=1e-2, betas=(momentum, 0.999), weight_decay=decay
    ),
}


def test_every_optimiser_is_compared():
    assert set(OPTIMIZERS.values()) == set(PYTORCHS)


@pytest.mark.parametrize("kind", PYTORCHS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("momentum, weight_decay", [(0.9, 1e-4), (0.5, 0.1), (0.9, 0.0), (0.0, 1e-4)])
def test_it_is_pytorchs_bit_for_bit(kind, momentum, weight_decay):
    own, theirs = parameters(), parameters()
    steps(own, kind(own, 1e-2, momentum, weight_decay), 0, 8)
    steps(theirs, PYTORCHS[kind](theirs, momentum, weight_decay), 0, 8)
    assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(own, parameters(), strict=True))


@pytest.mark.parametrize("kind", PYTORCHS, ids=lambda kind: kind.__name__)
def test_it_goes_on_from_its_state(kind):
    whole, halves = parameters(), parameters()
    steps(whole, kind(whole, 1e-2, 0.9, 1e-4), 0, 8)
    first, second = (kind(halves, 1e-2, 0.9, 1e-4) for _ in range(2))
    steps(halves, first, 0, 4)
    second.load_state_dict(first.state_dict())
    steps(halves, second, 4, 8)
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))


def test_one_that_waits_changes_nothing():
    weights = parameters()
    optimizer = RMSprop(weights, 1e-2, 0.9, 1e-4)
    optimizer.waits = True
    steps(weights, optimizer, 0, 3)
    assert all(torch.equal(a, b) for a, b in zip(weights, parameters(), strict=True))
    assert optimizer.state == [{} for _ in weights]


def test_a_state_goes_where_the_weights_are():
    weights = [torch.ones(3, requires_grad=True)]
    weights[0].grad = torch.ones(3)
    on_cpu = RMSprop(weights, 1e-2, 0.9, 0.0)
    on_cpu.step()
    elsewhere = RMSprop([torch.ones(3, device="meta", requires_grad=True)], 1e-2, 0.9, 0.0)
    elsewhere.load_state_dict(on_cpu.state_dict())
    assert {value.device.type for value in elsewhere.state[0].values()} == {"meta"}


@pytest.mark.parametrize("values", [(-1e-2, 0.9, 0.0), (1e-2, -0.9, 0.0), (1e-2, 0.9, -0.1), (float("nan"), 0.9, 0.0)])
def test_what_is_negative_is_refused(values):
    with pytest.raises(ValueError, match="expected none below 0"):
        RMSprop(parameters(), *values)


def test_without_gradients_nothing_changes():
    weights = parameters()
    RMSprop(weights, 1e-2, 0.9, 0.1).step()
    assert all(torch.equal(a, b) for a, b in zip(weights, parameters(), strict=True))


def test_pytorchs_compiler_is_not_imported():
    program = "import sys, torch; from dml.optimizers import OPTIMIZERS, SGD, Adam, AdamW, RMSprop\n"
    program += "w = torch.ones(3, requires_grad=True); o = RMSprop([w], 1, 0.9, 0)\n"
    program += "w.sum().backward(); o.step(); o.zero_grad(); assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
