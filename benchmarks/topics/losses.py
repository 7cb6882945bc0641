"""The loss step, forward and backward, beside pytorch-metric-learning's."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import pandas as pd
import torch
from pytorch_metric_learning import distances, losses, miners, regularizers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import comparing
from dml import plugins
from dml.method import Method
from dml.sampling import Batches
from dml.seeds import generator

TITLE = "Losses"
ABOUT = """Forward and backward of every method that pytorch-metric-learning (PML) has too, with the same
settings, weights and batches, drawn as in training from 100 classes. On the CPU both have one thread. `operations` are
those that PyTorch dispatches, views included: on a GPU a step of these sizes takes as long as launching them. `waits`
are those among them whose value or shape the host must read before it can go on, each of which empties the queue of a
GPU and forbids a CUDA graph."""

NUM_CLASSES = 100
SIZES = ((32, 128), (256, 128))
"""Images in a batch and embedding size: those of the paper, and a large batch."""
GOAL = 1.5
LOOP_SECONDS = 0.03
"""A repetition is a loop of about so long."""

# Near the paper's best, with most losses neither all nor nothing on the batches here.
SETTINGS = {
    "contrastive": {"pos_margin": 0.2, "neg_margin": 1.4},
    "triplet": {"margin": 0.1},
    "ntxent": {"temperature": 0.1},
    "proxy_nca": {"softmax_scale": 14.0},
    "margin": {"margin": 0.1, "beta": 1.3},
    "margin_class": {"margin": 0.1, "beta": 1.3},
    "normalized_softmax": {"temperature": 0.1},
    "cosface": {"margin": 0.6, "scale": 100.0},
    "arcface": {"margin": 23.0, "scale": 100.0},
    "fastap": {"num_bins": 17},
    "snr_contrastive": {"pos_margin": 0.3, "neg_margin": 2.0, "regularizer_weight": 0.1},
    "multi_similarity": {"alpha": 2.0, "beta": 50.0, "base": 0.5},
    "multi_similarity_miner": {"alpha": 18.0, "beta": 76.0, "base": 0.8, "epsilon": 0.4},
    "soft_triple": {"la": 78.0, "gamma": 0.2, "reg_weight": 0.4, "margin": 0.4},
    "histogram": {"num_bins": 64},
    "ephn": {"temperature": 0.1},
    "epshn": {"temperature": 0.1},
    "proxy_anchor": {"alpha": 32.0, "margin": 0.1},
    "proxy_nca_pp": {"softmax_scale": 9.0},
}
EASY_POSITIVES = {"ephn": "hard", "epshn": "semihard"}
"""What PML's miner calls the negatives of these."""
DEPARTURES = {
    "arcface": "PML's is linear once angle and margin exceed 180 degrees, which does not happen here",
    "ntxent": "PML adds the smallest float to a positive's share, not 1e-20: no difference at this temperature",
    "snr_contrastive": "PML is given normalised embeddings, as its zero-mean term would see them as they are",
    "soft_triple": "PML leaves out the 1e-5 in the regulariser's root",
}


class PML(nn.Module):
    """What PML makes of the same settings, its weights as PML draws them."""

    def __init__(self, name: str, num_classes: int, embedding_size: int, settings: Mapping[str, Any]) -> None:
        super().__init__()
        s, sizes = dict(settings), {"num_classes": num_classes, "embedding_size": embedding_size}
        epsilon, reg_weight = s.pop("epsilon", None), s.pop("regularizer_weight", s.pop("reg_weight", None))
        self.loss = {
            "contrastive": lambda: losses.ContrastiveLoss(**s),
            "triplet": lambda: losses.TripletMarginLoss(**s),
            "ntxent": lambda: losses.NTXentLoss(**s),
            "proxy_nca": lambda: losses.ProxyNCALoss(**sizes, **s),
            "margin": lambda: losses.MarginLoss(**s, learn_beta=True),
            "margin_class": lambda: losses.MarginLoss(**s, learn_beta=True, num_classes=num_classes),
            "normalized_softmax": lambda: losses.NormalizedSoftmaxLoss(**sizes, **s),
            "cosface": lambda: losses.CosFaceLoss(**sizes, **s),
            "arcface": lambda: losses.ArcFaceLoss(**sizes, **s),
            "fastap": lambda: losses.FastAPLoss(**s),
            "snr_contrastive": lambda: losses.SignalToNoiseRatioContrastiveLoss(
                **s, embedding_regularizer=regularizers.ZeroMeanRegularizer(), embedding_reg_weight=reg_weight
            ),
            "multi_similarity": lambda: losses.MultiSimilarityLoss(**s),
            "multi_similarity_miner": lambda: losses.MultiSimilarityLoss(**s),
            "soft_triple": lambda: losses.SoftTripleLoss(
                **sizes, **s, weight_reg_weight=reg_weight,
                weight_regularizer=regularizers.SparseCentersRegularizer(num_classes, 10),
            ),
            "histogram": lambda: losses.HistogramLoss(n_bins=s["num_bins"]),
            "ephn": lambda: losses.NTXentLoss(**s),
            "epshn": lambda: losses.NTXentLoss(**s),
            "proxy_anchor": lambda: losses.ProxyAnchorLoss(**sizes, **s),
            "proxy_nca_pp": lambda: losses.ProxyNCALoss(**sizes, **s),
        }[name]()  # fmt: skip
        self.miner = None if epsilon is None else miners.MultiSimilarityMiner(epsilon)
        if name in EASY_POSITIVES:
            cosine = distances.CosineSimilarity()
            self.miner = miners.BatchEasyHardMiner("easy", EASY_POSITIVES[name], distance=cosine)
        self.sees_normalised = name == "snr_contrastive"
        self.classes_first = "prox" in name

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        seen = F.normalize(embeddings) if self.sees_normalised else embeddings
        return self.loss(seen, labels, None if self.miner is None else self.miner(seen, labels))

    def in_its_layout(self, weight: Tensor) -> Tensor:
        """Our weights have the classes first; PML's proxies too, but its W and fc have them last."""
        return weight if self.classes_first or weight.ndim == 1 else weight.flatten(0, -2).T

    def take_weights(self, method: Method) -> None:
        """Go on with the weights of our method."""
        with torch.no_grad():
            for theirs, ours in zip(self.parameters(), method.parameters(), strict=True):
                theirs.copy_(self.in_its_layout(ours))


class Dispatches(TorchDispatchMode):
    """Takes note of what PyTorch dispatches while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.waits: list[str] = []
        """Those that give a value to the host, have a shape that only the values tell, or copy between devices."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.operations.append(str(operation))
        if _reads_values(operation, args) or _copies_between_devices(operation, args, kwargs):
            self.waits.append(str(operation))
        return operation(*args, **kwargs)


def _reads_values(operation: torch._ops.OpOverload, args: tuple) -> bool:
    if "index" in operation.name():  # indices are what they are; of a mask the indices must be found first
        indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else []
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(operation.tags))


def _copies_between_devices(operation: torch._ops.OpOverload, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    if operation is torch.ops.aten._to_copy.default:
        return kwargs.get("device") not in (None, args[0].device)
    return operation is torch.ops.aten.copy_.default and args[0].device != args[1].device


@dataclass(frozen=True)
class Step:
    """The loss of a batch and its gradients, as often as wanted."""

    loss: nn.Module
    embeddings: Tensor
    labels: Tensor

    def __call__(self, times: int = 1) -> list[Tensor]:
        """The loss and its gradients by the embeddings and by the loss's own weights."""
        inputs = [self.embeddings, *self.loss.parameters()]
        for _ in range(times):
            for tensor in inputs:
                tensor.grad = None
            value = self.loss(self.embeddings, self.labels)
            value.backward()
        if self.embeddings.is_cuda:
            torch.cuda.synchronize()
        return [value.detach(), *(tensor.grad for tensor in inputs)]

    def dispatches(self) -> Dispatches:
        """What one step dispatches."""
        with Dispatches() as dispatches:
            self()
        return dispatches


def measure(repetitions: int) -> pd.DataFrame:
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    with one_thread():
        rows = [_row(name, size, device, 3 * repetitions) for device in devices for size in SIZES for name in SETTINGS]
    frame = comparing.table(row for row, _ in rows)
    return frame.join(pd.DataFrame([counts for _, counts in rows]))


draw = comparing.draw


@contextmanager
def one_thread() -> Iterator[None]:
    """As the jobs of a study run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def steps(name: str, size: tuple[int, int], dtype: torch.dtype, device: str) -> tuple[Step, Step]:
    """Ours and PML's on the same batch, with the same weights."""
    torch.manual_seed(0)
    ours = plugins.load_class("methods", name, Method)(NUM_CLASSES, size[1], **SETTINGS[name])
    peer = PML(name, NUM_CLASSES, size[1], SETTINGS[name])
    peer.take_weights(ours)
    embeddings, labels = batch(name, size)
    return tuple(
        Step(loss.to(device, dtype), embeddings.to(device, dtype).requires_grad_(), labels.to(device))
        for loss in (ours, peer)
    )


def batch(name: str, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Embeddings and labels of a batch as the sampler makes it for a method, of 8 images a class."""
    labels = torch.arange(NUM_CLASSES).repeat_interleave(8)
    images_per_class = plugins.literal("methods", name, "IMAGES_PER_CLASS")
    chosen = labels[next(Batches(labels.numpy(), size[0], images_per_class, generator(0, "batch")))]
    draws = torch.Generator().manual_seed(1)
    centres = torch.randn(NUM_CLASSES, size[1], generator=draws)
    return centres[chosen] + 1.5 * torch.randn(*size, generator=draws), chosen


def _row(name: str, size: tuple[int, int], device: str, repetitions: int) -> tuple[comparing.Row, dict[str, int]]:
    ours, peer = steps(name, size, torch.float64, device)
    loss, gradient, *of_weights = ours()
    difference = largest_difference([loss, gradient, *map(peer.loss.in_its_layout, of_weights)], peer())
    ours, peer = steps(name, size, torch.float32, device)
    our_seconds, peer_seconds = _seconds_a_step(ours, peer, repetitions)
    row = comparing.Row(
        case=f"{plugins.literal('methods', name, 'TITLE')}, {size[0]} x {size[1]}",
        device="CPU, 1 thread" if device == "cpu" else torch.cuda.get_device_name(),
        ours=our_seconds,
        peer=peer_seconds,
        peer_is=" with ".join(type(part).__name__ for part in (peer.loss.loss, peer.loss.miner) if part is not None),
        goal=GOAL,
        repetitions=repetitions,
        note="; ".join(filter(None, [f"equal to {difference:.0e} in float64", DEPARTURES.get(name)])),
    )
    found = {"our": ours.dispatches(), "peer": peer.dispatches()}
    counts = {f"{whose}_operations": len(dispatches.operations) for whose, dispatches in found.items()}
    return row, counts | {f"{whose}_waits": len(dispatches.waits) for whose, dispatches in found.items()}


def largest_difference(ours: list[Tensor], peer: list[Tensor]) -> float:
    """Of loss and gradients, relative to the largest number of each. ValueError if they are not the same loss."""
    found = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-9)) for a, b in zip(ours, peer, strict=True))
    if not found < 1e-4:
        raise ValueError(f"ours and the peer's loss or gradients differ by {found:.1e} of the largest: not one loss")
    return found


def _seconds_a_step(ours: Step, peer: Step, repetitions: int) -> tuple[float, float]:
    """Medians of loops, each long enough to be timed."""
    sides: dict[str, Callable[[], object]] = {}
    times = {}
    for name, step in (("ours", ours), ("peer", peer)):
        step()
        begin = perf_counter()
        step()
        times[name] = max(1, round(LOOP_SECONDS / (perf_counter() - begin)))
        sides[name] = lambda step=step, name=name: step(times[name])
    seconds = comparing.seconds(sides, repetitions)
    return seconds["ours"] / times["ours"], seconds["peer"] / times["peer"]
