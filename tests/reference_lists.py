"""Losses of rankings and groups, as their definitions read: see reference.py."""

import math

import torch
from reference import (
    all_distances,
    fastap,
    hinge,
    mean,
    mean_of_nonzero,
    negative_pairs,
    negatives_of,
    positive_pairs,
    positives_of,
    total,
    unit_length,
    zero,
)

RIDGE = 2e-4


def smooth_ap(embeddings, labels, temperature):
    def ahead(by):
        return torch.sigmoid(by / temperature)

    def rank_among(others, item, s):
        return 1 + total(ahead(s[other] - s[item]) for other in others if other != item)

    losses = []
    for anchor, s in with_positives(embeddings, labels):
        relevant = [anchor, *positives_of(anchor, labels)]
        precisions = [rank_among(relevant, j, s) / rank_among(range(len(s)), j, s) for j in relevant]
        losses.append(1 - mean(precisions))
    return mean(losses)


def roadmap(embeddings, labels, rho, calibration_weight, pos_margin, neg_margin, temperature=0.01, delta=0.05):
    def ahead_of_positive(by):
        if by <= 1e-14:  # equal, but for rounding
            return torch.sigmoid(by / temperature)
        if by <= delta:
            return 0.5 + torch.sigmoid(by / temperature)
        return 0.5 + 1 / (1 + math.exp(-delta / temperature)) + rho * (by - delta)

    losses = []
    for anchor, s in with_positives(embeddings, labels):
        relevant, precisions = [anchor, *positives_of(anchor, labels)], []
        for j in relevant:
            rank = 1 + len([k for k in relevant if s[k] - s[j] > 1e-14])
            missed = total(ahead_of_positive(s[n] - s[j]) for n in negatives_of(anchor, labels))
            precisions.append(rank / (rank + missed))
        losses.append(1 - mean(precisions))
    z = unit_length(embeddings)
    calibration = mean_of_nonzero([hinge(pos_margin - z[a] @ z[p]) for a, p in positive_pairs(labels)])
    calibration = calibration + mean_of_nonzero([hinge(z[a] @ z[n] - neg_margin) for a, n in negative_pairs(labels)])
    return (1 - calibration_weight) * mean(losses) + calibration_weight * calibration


def recall_at_k(embeddings, labels, temperature, rank_temperature):
    return missing_recall(unit_length(embeddings), labels.tolist(), temperature, rank_temperature)


def recall_at_k_simix(embeddings, labels, temperature, rank_temperature, draws):
    z, labels = unit_length(embeddings), labels.tolist()
    to_pick, shares = draws
    items, of_items = list(z), list(labels)
    for i, label in enumerate(labels):
        partners = positives_of(i, labels)
        if partners:
            partner = max(partners, key=lambda j: to_pick[i, j])
            items.append(shares[i] * z[partner] + (1 - shares[i]) * z[i])
            of_items.append(label)
    return missing_recall(items, of_items, temperature, rank_temperature)


def missing_recall(items, labels, temperature, rank_temperature):
    losses = []
    for query in range(len(items)):
        s, positives, ranks = [items[query] @ item for item in items], positives_of(query, labels), []
        for x in positives:
            others = [y for y in range(len(items)) if y not in (query, x)]
            ranks.append(1 + total(torch.sigmoid((s[y] - s[x]) / temperature) for y in others))
        recalls = []
        for k in (1, 2, 4, 8, 16):
            hits = total(torch.sigmoid((k - rank) / (rank_temperature * k)) for rank in ranks)
            recalls.append(min(hits, k) / min(len(positives), k) if positives else None)
        if positives:
            losses.append(1 - mean(recalls))
    return mean(losses)


def fastap_hierarchical(embeddings, labels, num_bins):
    return fastap(embeddings, labels, num_bins)


def deep_spectral(embeddings, labels):
    """Each class's indicator y by ridge regression on the embeddings: y (I - F F^+) y is its least squares, ridge
    included, whose gradient is that with the best weights held constant."""
    size = embeddings.shape[1]
    ridge = RIDGE * embeddings.detach().square().sum().sqrt() / math.sqrt(size)
    losses = []
    for label in set(labels.tolist()):
        indicator = (labels == label).to(embeddings.dtype)
        rows = torch.cat([embeddings.detach(), ridge * torch.eye(size, dtype=embeddings.dtype)])
        wanted = torch.cat([indicator, indicator.new_zeros(size)])
        weights = torch.linalg.lstsq(rows, wanted[:, None], driver="gelsd").solution[:, 0]
        squares = (indicator - embeddings @ weights).square().sum() + (ridge * weights).square().sum()
        losses.append(squares / indicator.sum())
    return mean(losses)


def sph(embeddings, labels, temperature, draws):
    z = unit_length(embeddings)
    return cross_entropy_of_views(labels, draws[0], temperature, lambda a, b: z[a] @ z[b])


def hyp(embeddings, labels, temperature, curvature, radius, draws):
    points = [into_ball(x, curvature, radius) for x in embeddings]

    def similarity(a, b):
        return -hyperbolic_distance(points[a], points[b], curvature)

    return cross_entropy_of_views(labels, draws[0], temperature, similarity)


def cross_entropy_of_views(labels, numbers, temperature, similarity):
    def view(i):
        return sorted([i, *positives_of(i, labels)], key=lambda j: numbers[j]).index(i)

    views = [view(i) for i in range(len(labels))]
    losses = []
    for a, p in positive_pairs(labels):
        seen = [n for n in negatives_of(a, labels) if views[n] in (views[a], views[p])]
        logits = torch.stack([similarity(a, other) / temperature for other in [p, *seen]])
        losses.append(logits.logsumexp(dim=0) - logits[0])
    return mean(losses)


def into_ball(x, curvature, radius):
    length = x.square().sum().sqrt()
    x = x * radius / length if length > radius else x
    length = x.square().sum().sqrt()
    return torch.tanh(math.sqrt(curvature) * length) / (math.sqrt(curvature) * length) * x


def hyperbolic_distance(g, h, curvature):
    if torch.equal(g, h):
        return zero()
    room = (1 - curvature * g.square().sum()) * (1 - curvature * h.square().sum())
    return torch.arccosh(1 + 2 * curvature * (g - h).square().sum() / room) / math.sqrt(curvature)


def irt_r(embeddings, labels, margin, koleo_weight):
    """With an empty memory."""
    z = unit_length(embeddings)
    d = all_distances(z)
    contrastive, spread = zero(), zero()
    for i in range(len(labels)):
        contrastive = contrastive + total(1 - z[i] @ z[p] for p in positives_of(i, labels))
        contrastive = contrastive + total(hinge(z[i] @ z[n] - margin) for n in negatives_of(i, labels))
        others = [d[i][j] for j in range(len(labels)) if j != i]
        if others and min(others) > 0:
            spread = spread - torch.log(torch.stack(others).amin())
    return (contrastive + koleo_weight * spread) / len(labels)


def rkd(embeddings, teacher, angle_weight):
    def smooth_l1(u, v):
        apart = (u - v).abs()
        return torch.where(apart < 1, apart.square() / 2, apart - 0.5)

    def relations(x):
        d = all_distances(x)
        unit = mean([value for row in d for value in row if value > 0])
        items = range(len(x))
        distances = torch.stack([d[i][j] / unit if d[i][j] > 0 else zero() for i in items for j in items])
        angles = []
        for j in items:
            directions = [(x[i] - x[j]) / d[i][j] if d[i][j] > 0 else torch.zeros_like(x[i]) for i in items]
            angles += [torch.stack(directions) @ direction for direction in directions]
        return distances, torch.cat(angles)

    (distances, angles), (wanted_distances, wanted_angles) = map(relations, map(unit_length, (embeddings, teacher)))
    return smooth_l1(distances, wanted_distances).mean() + angle_weight * smooth_l1(angles, wanted_angles).mean()


def with_positives(embeddings, labels):
    """Anchors that have positives, each with its cosines to all images."""
    z = unit_length(embeddings)
    return [(a, [z[a] @ x for x in z]) for a in range(len(labels)) if positives_of(a, labels)]
