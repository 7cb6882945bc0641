"""The toy of Roth et al. 2020 (ICML): what does rho-regularisation do to an embedding of points on a diagonal?

Trained when it is drawn, in two seconds, by the settings of their code: four classes on the line y = x to train with,
four classes on other lines to test with, and a network of 2-30-30-2 units whose output lies on the unit circle.
"""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dml.plotting import CONTEXT, INK, PALETTE, styled
from dml.results import Results
from dml.seeds import generator
from dml.stats import interval

NEEDS = "toys"
TITLE = "Toy: classes on a diagonal line"
CAPTION = (
    "Made-up points, not images; after Roth et al. (ICML 2020), trained anew for this figure. Left: four classes to "
    "train with lie on a diagonal, four classes to test with on other lines. Middle: both on the unit circle, as a "
    "small network embeds them (dots: training; crosses, drawn further out: test). It is trained with a triplet loss; "
    "with rho-regularisation as the paper describes it, where in one of a thousand triplets the positive takes the "
    "place of the negative; as the code of the paper's toy has it, where all triplets lose their pull too; and without "
    "pull, but with nothing replaced, which shows which of the two does what. Right: the two singular values of the "
    "training embedding, scaled to the sum 1; the more equal, the flatter its spectrum. Dots: ten networks, each with "
    "other points, weights and batches, which its four variants share; bars: their mean with its 95% Student-t "
    "interval. P@1: of the test points, likewise. The circles show the first network; one alone would show chance."
)
VARIANTS = {
    "base": "Triplet loss",
    "described": "Regularised,\nas described",
    "coded": "Regularised,\nas coded",
    "push": "Push alone",
}
TRAINING = [((start, start + 0.2), (start, start + 0.2)) for start in (0.1, 0.35, 0.6, 0.85)]
TEST = [((0.2, 0.2), (0.2, 0.4)), ((0.2, 0.2), (0.55, 0.85)), ((0.4, 0.6), (0.2, 0.2)), ((0.7, 0.9), (0.2, 0.2))]
"""From where to where the lines go, x and y; a class is a line."""
ON_A_LINE, KEPT = 100, 15
"""Evenly spaced points of a line, and how many of them are drawn."""
LAYERS = (2, 30, 30, 2)
LEARNING_RATE, STEPS, BATCH = 0.03, 200, 24
MARGIN, REPLACED = 0.1, 0.001
NETWORKS = 10
LABELS = np.repeat(np.arange(4), KEPT)


class Drawn(NamedTuple):
    """All that is random of the networks: (NETWORKS, ...) arrays."""

    training: np.ndarray
    """(networks, 60, 2) points."""
    test: np.ndarray
    weights: list[np.ndarray]
    """(networks, inputs, outputs) and (networks, 1, outputs) of each layer."""
    batches: np.ndarray
    """(networks, STEPS, BATCH) positions among the training points."""
    replaced: np.ndarray
    """(STEPS, networks, anchor, positive, negative): whether the negative of a triplet gives way to the positive."""


@styled
def draw(results: Results) -> Figure:
    """The points, the circle of each variant, and the singular values of all."""
    drawn = _draw_all()
    embedded = {variant: _train(drawn, variant) for variant in VARIANTS}
    figure = Figure(figsize=(10.4, 2.4), layout="constrained")
    axes = figure.subplots(1, 2 + len(VARIANTS), gridspec_kw={"width_ratios": [1.1, 1, 1, 1, 1, 1.9]})
    _draw_points(axes[0], drawn)
    for place, (variant, title) in zip(axes[1:-1], VARIANTS.items(), strict=True):
        training, test = embedded[variant]
        _draw_circle(place, training[0], test[0])
        place.set_title(title, fontsize=8.5, fontweight="bold")
        mean, half_width, _ = interval([_precision_at_1(points) for points in test])
        place.set_xlabel(f"P@1 {100 * mean:.0f} ± {100 * half_width:.0f}%", fontsize=8)
    _draw_values(axes[-1], [training for training, _ in embedded.values()])
    return figure


def _draw_all() -> Drawn:
    """Every network has draws of its own, which its variants share."""
    parts = [_draw_one(generator("diagonal_lines", network)) for network in range(NETWORKS)]
    training, test, weights, batches, replaced = zip(*parts, strict=True)
    stacked = [np.stack(of_layer) for of_layer in zip(*weights, strict=True)]
    return Drawn(np.stack(training), np.stack(test), stacked, np.stack(batches), np.stack(replaced, axis=1))


def _draw_one(rng: np.random.Generator) -> tuple:
    """Points, weights as PyTorch's linear layers begin with them, batches without replacement, and what is replaced."""
    training, test = (np.concatenate([_on_line(line, rng) for line in lines]) for lines in (TRAINING, TEST))
    weights = []
    for inputs, outputs in zip(LAYERS, LAYERS[1:], strict=False):
        bound = inputs**-0.5
        weights += [rng.uniform(-bound, bound, (inputs, outputs)), rng.uniform(-bound, bound, (1, outputs))]
    batches = np.stack([rng.permutation(len(training))[:BATCH] for _ in range(STEPS)])
    return training, test, weights, batches, rng.random((STEPS, BATCH, BATCH, BATCH), dtype=np.float32) < REPLACED


def _on_line(line: tuple, rng: np.random.Generator) -> np.ndarray:
    (x_start, x_end), (y_start, y_end) = line
    points = np.stack([np.linspace(x_start, x_end, ON_A_LINE), np.linspace(y_start, y_end, ON_A_LINE)], axis=1)
    return points[np.sort(rng.choice(ON_A_LINE, KEPT, replace=False))]


def _train(drawn: Drawn, variant: str) -> tuple[np.ndarray, np.ndarray]:
    """Train all networks side by side; embeddings of their training and their test points (networks, 60, 2)."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # then sums are formed in one order, and the figure has the same bytes again
    try:
        training, test = (torch.from_numpy(points) for points in (drawn.training, drawn.test))
        weights = [torch.from_numpy(of_layer.copy()).requires_grad_() for of_layer in drawn.weights]
        optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE)
        networks = torch.arange(NETWORKS)[:, None]
        for step in range(STEPS):
            batch = torch.from_numpy(drawn.batches[:, step])
            labels = torch.from_numpy(LABELS)[batch]
            embeddings = _embed(training[networks, batch], weights)
            replaced = torch.from_numpy(drawn.replaced[step])
            optimizer.zero_grad()
            _loss(embeddings, labels, replaced, variant).sum().backward()
            optimizer.step()
        with torch.no_grad():
            return _embed(training, weights).numpy(), _embed(test, weights).numpy()
    finally:
        torch.set_num_threads(threads)


def _embed(points, weights: list):
    """(networks, points, 2) -> (networks, points, 2) of unit length."""
    first, first_bias, second, second_bias, third, third_bias = weights
    hidden = ((points @ first + first_bias).relu() @ second + second_bias).relu()
    embeddings = hidden @ third + third_bias
    return embeddings / embeddings.norm(dim=2, keepdim=True)


def _loss(embeddings, labels, replaced, variant: str):
    """The mean of d(a, p) + max(0, MARGIN - d(a, n)) over all triplets of each network's batch (networks,).

    Where a triplet is `replaced` (networks, anchor, positive, negative), its positive takes the place of its negative
    (but not in `base` and `push`); `coded` and `push` leave out d(a, p), of all triplets.
    """
    same = labels[:, :, None] == labels[:, None]
    one = same.diagonal(dim1=1, dim2=2).diag_embed()
    triplets = (same & ~one)[:, :, :, None] & ~same[:, :, None]
    replaced = triplets & replaced if variant in ("described", "coded") else triplets & False
    kept = triplets & ~replaced
    distances = (embeddings[:, :, None] - embeddings[:, None]).square().sum(dim=3).clamp(min=1e-16).sqrt()
    push = (MARGIN - distances).relu()
    total = replaced.sum(dim=3) * push + kept.sum(dim=2) * push
    if variant in ("base", "described"):
        total = total + triplets.sum(dim=3) * distances
    return total.sum(dim=(1, 2)) / triplets.sum(dim=(1, 2, 3))


def _precision_at_1(embeddings: np.ndarray) -> float:
    cosines = embeddings @ embeddings.T
    np.fill_diagonal(cosines, -np.inf)
    return float((LABELS[cosines.argmax(axis=1)] == LABELS).mean())


def _singular_values(embeddings: np.ndarray) -> np.ndarray:
    """(networks, 2), scaled to the sum 1; embeddings are not centred."""
    values = np.linalg.svd(embeddings, compute_uv=False)
    return values / values.sum(axis=1, keepdims=True)


def _draw_points(axes: Axes, drawn: Drawn) -> None:
    for label in range(4):
        own = label == LABELS
        axes.plot(*drawn.training[0][own].T, "o", color=PALETTE[label], markersize=3.5, markeredgewidth=0)
        axes.plot(*drawn.test[0][own].T, "x", color=PALETTE[label], markersize=3.5)
    axes.set_title("Points", fontsize=8.5, fontweight="bold")
    axes.set_aspect("equal")


def _draw_circle(axes: Axes, training: np.ndarray, test: np.ndarray) -> None:
    angles = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angles), np.sin(angles), color=CONTEXT, linewidth=0.8)
    for label in range(4):
        own = label == LABELS
        axes.plot(*training[own].T, "o", color=PALETTE[label], markersize=3.5, markeredgewidth=0)
        axes.plot(*(1.2 * test[own]).T, "x", color=PALETTE[label], markersize=3.5)
    axes.set_aspect("equal")
    axes.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _draw_values(axes: Axes, embedded: list[np.ndarray]) -> None:
    """Bars of both values for each variant, with every network."""
    for position, training in enumerate(embedded):
        for offset, of_networks in zip((-0.2, 0.2), _singular_values(training).T, strict=True):
            mean, half_width, _ = interval(of_networks)
            bar = {"color": CONTEXT, "edgecolor": INK, "linewidth": 0.6, "ecolor": INK}
            axes.bar(position + offset, mean, 0.36, yerr=half_width, error_kw={"elinewidth": 1.2}, **bar)
            sides = position + offset + np.linspace(-0.1, 0.1, NETWORKS)
            axes.plot(sides, of_networks, "o", color=PALETTE[0], markersize=2, markeredgewidth=0)
    axes.set_xticks(range(len(VARIANTS)), [title.replace(" ", "\n") for title in VARIANTS.values()], fontsize=6.5)
    axes.set_ylim(0, 1)
    axes.set_title("Singular values", fontsize=8.5, fontweight="bold")
    axes.grid(axis="y")
