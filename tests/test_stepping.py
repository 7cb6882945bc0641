import copy
import math

import pytest
import torch
from torch import nn

from dml import stepping
from dml.method import Method, Outputs
from dml.optimizers import RMSprop
from dml.stepping import EAGER_STEPS, Stepper


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))

    def forward(self, images):
        features = self.layers(images)
        return Outputs(features, features)


class Distance(Method):
    """Has a weight of its own; `factor` makes the loss infinite when it is."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.factor = 1.0

    def forward(self, embeddings, labels):
        return ((embeddings * self.weight - labels[:, None]) ** 2).mean() * self.factor


def a_stepper(device="cuda", captures=True):
    torch.manual_seed(0)
    model, method = Network(), Distance()
    method.capturable = captures
    optimizers = [RMSprop([*part.parameters()], 1e-2, 0.9, 0.0) for part in (model, method)]
    return Stepper(model, method, optimizers, torch.zeros(()), device)


def batches(count):
    draws = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 3, 2, 2, generator=draws), torch.randint(0, 3, (6,), generator=draws)) for _ in range(count)
    ]


def state_of(stepper):
    return [tensor.detach().clone() for tensor in stepper._state()]


def run(stepper, count=10):
    for crops, labels in batches(count):
        stepper(crops, labels)
    return state_of(stepper)


@pytest.fixture
def eager():
    return run(a_stepper("cpu"))


def assert_equal(states, others):
    assert len(states) == len(others)
    for state, other in zip(states, others, strict=True):
        torch.testing.assert_close(state, other, rtol=0, atol=0)


@pytest.fixture
def captured(monkeypatch):
    """In the place of graphs: calls that do the work again on the tensors that were there when it was captured."""
    works = []

    def capture(work, device):
        works.append(work)
        return work

    monkeypatch.setattr(stepping, "capture", capture)
    return works


def test_a_graph_does_what_the_steps_do(captured, eager):
    stepper = a_stepper()
    assert_equal(run(stepper), eager)
    assert len(captured) == 1 and stepper.replay is not None


def test_nothing_is_captured_before_the_first_steps_and_on_a_cpu(captured):
    run(a_stepper(), EAGER_STEPS)
    run(a_stepper("cpu"))
    run(a_stepper(captures=False))
    assert not captured


def test_the_graph_reads_its_own_batch_and_leaves_the_callers_alone(captured):
    stepper = a_stepper()
    given = batches(8)
    kept = copy.deepcopy(given)
    for crops, labels in given:
        stepper(crops, labels)
    for (crops, labels), (crops_before, labels_before) in zip(given, kept, strict=True):
        assert torch.equal(crops, crops_before) and torch.equal(labels, labels_before)
    assert torch.equal(stepper.batch[0], given[-1][0]) and stepper.batch[0] is not given[-1][0]


def test_what_cannot_be_captured_goes_on_without(monkeypatch, eager, capsys):
    def refuse(work, device):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(stepping, "capture", refuse)
    assert_equal(run(a_stepper()), eager)
    said = capsys.readouterr().err
    assert said.count("no CUDA graph") == 1 and "operation not permitted when stream is capturing" in said


def without_the_model(work, model):
    """Does the work, but leaves the model's weights as they were."""
    before = copy.deepcopy(model.state_dict())
    work()
    model.load_state_dict(before)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda work, stepper: lambda: None,  # does nothing
        lambda work, stepper: lambda: (work(), work()),  # too much
        lambda work, stepper: lambda: (work(), stepper.total.add_(1)),  # another loss
        lambda work, stepper: lambda: (work(), stepper.total.fill_(math.nan)),
        lambda work, stepper: lambda: without_the_model(work, stepper.model),
    ],
)
def test_a_graph_that_does_something_else_is_not_used(monkeypatch, wrong, eager, capsys):
    stepper = a_stepper()
    monkeypatch.setattr(stepping, "capture", lambda work, device: wrong(work, stepper))
    assert_equal(run(stepper), eager)
    assert stepper.replay is None
    assert "differs by" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_is_no_difference(captured, capsys):
    stepper = a_stepper()
    stepper.method.factor = math.inf
    run(stepper)
    assert stepper.replay is not None and not capsys.readouterr().err
    assert not math.isfinite(stepper.total)


def test_a_method_that_counts_in_python_has_no_graph(captured, capsys):
    class Counting(Distance):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, embeddings, labels):
            self.calls += 1
            return super().forward(embeddings, labels)

    stepper = a_stepper()
    stepper.method = Counting()
    run(stepper)
    assert not captured and stepper.replay is None
    assert "it changes Counting.calls" in capsys.readouterr().err
    assert torch.isfinite(stepper.total)


def test_what_fails_on_the_way_leaves_nothing_behind(monkeypatch, eager, capsys):
    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stepping, "capture", lambda work, device: too_large)
    assert_equal(run(a_stepper()), eager)
    assert "out of memory" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------- batches that are large


class Seeing(Method):
    """A loss of everything that a model gives, and of all pairs of the batch."""

    needs_maps = True

    def objective(self, outputs, labels):
        of_pairs = (outputs.embeddings @ outputs.embeddings.T - (labels[:, None] == labels).float()).square().mean()
        teacher = 0.0 if outputs.teacher is None else (outputs.embeddings - outputs.teacher).square().mean()
        return of_pairs + outputs.features.square().mean() + outputs.maps.abs().mean() + teacher


class Drawing(nn.Module):
    """A network with a layer that draws."""

    def __init__(self):
        super().__init__()
        self.trunk, self.dropout, self.head = nn.Conv2d(3, 4, 1), nn.Dropout(0.5), nn.Linear(4, 5)

    def forward(self, crops):
        maps = self.dropout(self.trunk(crops))
        features = maps.mean((2, 3))
        return Outputs(self.head(features), features, maps)


def after_steps(part, teacher=None, method=None):
    torch.manual_seed(0)
    model, method = Drawing(), method or Seeing()
    if part is None:
        model.eval()  # the parts draw other numbers than the whole: compared without
    optimizer = RMSprop([*model.parameters()], 1e-2, 0.9, 0.0)
    stepper = Stepper(model, method, [optimizer], torch.zeros(()), "cpu", part, teacher)
    return model, stepper


@pytest.mark.parametrize("with_teacher", [False, True])
@pytest.mark.parametrize("part", [1, 4, 5])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(part, with_teacher):
    teacher = Drawing().eval() if with_teacher else None
    found = []
    for size in (None, part):
        model, stepper = after_steps(None, teacher)
        stepper.part = size
        run(stepper, 4)
        found.append([*model.parameters(), stepper.total])
    for whole, in_parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, in_parts, rtol=1e-4, atol=1e-6)


def test_layers_draw_the_same_in_both_passes():
    """The second pass sees the outputs whose loss was taken: else its gradient would be of something else."""
    seen = []

    class Watching(Seeing):
        def objective(self, outputs, labels):
            seen.append(outputs.features.detach().clone())
            torch.rand(7)  # a loss that draws as well
            return super().objective(outputs, labels)

    model, stepper = after_steps(4, method=Watching())
    model.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.features.detach().clone()))
    stepper(*batches(1)[0])
    first, second, of_all, first_again, second_again = seen
    assert torch.equal(of_all, torch.cat([first, second]))
    assert torch.equal(first, first_again) and torch.equal(second, second_again)


def test_maps_are_kept_only_for_methods_that_look_at_them():
    kept = []

    class Plain(Method):
        def objective(self, outputs, labels):
            kept.append(outputs.maps)
            return outputs.embeddings.square().mean()

    _, stepper = after_steps(4, method=Plain())
    stepper(*batches(1)[0])
    assert kept == [None]
