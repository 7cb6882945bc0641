"""Losses of pairs, triplets and larger tuples of a batch, as their definitions read: see reference.py."""

import math

import torch
from reference import (
    all_distances,
    distance,
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

# drawn


def triplet_random(embeddings, labels, draws, margin):
    return triplet_loss(embeddings, drawn(embeddings, labels, draws), margin)


def triplet_semihard(embeddings, labels, draws, margin):
    def negatives(d, own, others, p):
        return alike([n for n in others if d[p] < d[n] < d[p] + margin] or others)

    return triplet_loss(embeddings, drawn(embeddings, labels, draws, negatives=negatives), margin)


def triplet_softhard(embeddings, labels, draws, margin):
    def positives(d, own, others):
        return alike([p for p in own if d[p] > min(d[n] for n in others)] or own)

    def negatives(d, own, others, p):
        return alike([n for n in others if d[n] < max(d[p] for p in own)] or others)

    return triplet_loss(embeddings, drawn(embeddings, labels, draws, positives, negatives), margin)


def triplet_distance_weighted(embeddings, labels, draws, margin):
    return triplet_loss(embeddings, drawn_by_distance(embeddings, labels, draws), margin)


def r_triplet(embeddings, labels, draws, margin, rho):
    return triplet_loss(embeddings, drawn_with_own_class(embeddings, labels, draws, rho), margin)


def triplet_loss(embeddings, of_anchors, margin):
    d = all_distances(unit_length(embeddings))
    return mean([hinge(d[a][p] ** 2 - d[a][n] ** 2 + margin) for a, p, n in of_anchors])


def contrastive_distance_weighted(embeddings, labels, draws, pos_margin, neg_margin):
    return contrastive_loss(embeddings, drawn_by_distance(embeddings, labels, draws), pos_margin, neg_margin)


def r_contrastive(embeddings, labels, draws, pos_margin, neg_margin, rho):
    return contrastive_loss(embeddings, drawn_with_own_class(embeddings, labels, draws, rho), pos_margin, neg_margin)


def contrastive_loss(embeddings, of_anchors, pos_margin, neg_margin):
    d = all_distances(unit_length(embeddings))
    too_far = [hinge(d[a][p] - pos_margin) for a, p, _ in of_anchors]
    too_near = [hinge(neg_margin - d[a][n]) for a, _, n in of_anchors]
    return mean(too_far) + mean(too_near)


def margin_distance_weighted(embeddings, labels, draws, margin, beta):
    return drawn_margin_loss(embeddings, labels, drawn_by_distance(embeddings, labels, draws), margin, beta)


def r_margin(embeddings, labels, draws, margin, beta, rho):
    return drawn_margin_loss(embeddings, labels, drawn_with_own_class(embeddings, labels, draws, rho), margin, beta)


def drawn_margin_loss(embeddings, labels, of_anchors, margin, beta):
    d = all_distances(unit_length(embeddings))
    terms = []
    for a, p, n in of_anchors:
        boundary = beta[labels[a]]
        terms += [hinge(d[a][p] - boundary + margin), hinge(boundary - d[a][n] + margin)]
    return mean_of_nonzero(terms)


def snr_distance_weighted(embeddings, labels, draws, margin):
    return snr_loss(embeddings, drawn_by_distance(embeddings, labels, draws), margin)


def r_snr(embeddings, labels, draws, margin, rho):
    not_centred = mean([abs(x.sum()) for x in unit_length(embeddings)])
    return snr_loss(embeddings, drawn_with_own_class(embeddings, labels, draws, rho), margin) + 0.005 * not_centred


def snr_loss(embeddings, of_anchors, margin):
    z = unit_length(embeddings)

    def noise_to_signal(a, b):
        return (z[a] - z[b]).var() / z[a].var()

    return mean_of_nonzero([hinge(noise_to_signal(a, p) - noise_to_signal(a, n) + margin) for a, p, n in of_anchors])


def quadruplet(embeddings, labels, draws, margin, second_margin):
    d = all_distances(unit_length(embeddings))
    firsts, seconds = [], []
    for a, p, n in drawn_by_distance(embeddings, labels, draws):
        firsts.append(hinge(d[a][p] - d[a][n] + margin))
        fourths = [m for m in negatives_of(a, labels) if labels[m] != labels[n]]
        if fourths:
            m = first_arrival(draws[2][a], alike(fourths))
            seconds.append(hinge(d[a][p] - d[n][m] + second_margin))
    return mean(firsts) + mean(seconds)


def drawn_with_own_class(embeddings, labels, draws, rho):
    of_anchors = drawn_by_distance(embeddings, labels, draws)
    return [(a, a, p) if draws[2][a] < rho else (a, p, n) for a, p, n in of_anchors]


def drawn_by_distance(embeddings, labels, draws):
    dimensions = embeddings.shape[1]

    def negatives(d, own, others, p):
        at_least = {n: max(d[n], 0.5) for n in others}
        return {n: x ** (2 - dimensions) * (1 - x**2 / 4) ** ((3 - dimensions) / 2) for n, x in at_least.items()}

    return drawn(embeddings, labels, draws, negatives=negatives)


def drawn(embeddings, labels, draws, positives=None, negatives=None):
    """One triplet for each anchor that has positives and negatives; functions weigh these, all alike without one."""
    positives = positives or (lambda d, own, others: alike(own))
    negatives = negatives or (lambda d, own, others, p: alike(others))
    of_anchors = []
    for a, row in enumerate(all_distances(unit_length(embeddings.detach()))):
        d, own, others = [float(x) for x in row], positives_of(a, labels), negatives_of(a, labels)
        if own and others:
            p = first_arrival(draws[0][a], positives(d, own, others))
            of_anchors.append((a, p, first_arrival(draws[1][a], negatives(d, own, others, p))))
    return of_anchors


def alike(candidates):
    return dict.fromkeys(candidates, 1)


def first_arrival(numbers, weights):
    return min(weights, key=lambda candidate: -math.log(numbers[candidate]) / weights[candidate])


# dense


def n_pairs(embeddings, labels, l2_weight):
    losses = []
    for a, p in positive_pairs(labels):
        of_class = {}
        for n in negatives_of(a, labels):
            ahead = torch.exp(embeddings[a] @ embeddings[n] - embeddings[a] @ embeddings[p])
            of_class.setdefault(int(labels[n]), []).append(ahead)
        losses.append(torch.log(1 + total(mean(terms) for terms in of_class.values())))
    return mean(losses) + l2_weight * mean([x.square().sum() for x in embeddings])


def angular(embeddings, labels, alpha, angular_weight, l2_weight):
    z, t = unit_length(embeddings), math.tan(math.radians(alpha)) ** 2
    losses = []
    for a, p in positive_pairs(labels):
        exponents = [4 * t * (z[a] + z[p]) @ z[n] - 2 * (1 + t) * z[a] @ z[p] for n in negatives_of(a, labels)]
        losses.append(torch.log(1 + total(torch.exp(exponent) for exponent in exponents)))
    return n_pairs(embeddings, labels, l2_weight) + angular_weight * mean(losses)


def ranked_list(embeddings, labels, alpha, margin, temperature, imbalance):
    z = unit_length(embeddings)
    losses = []
    for query in range(len(labels)):
        d = [distance(z[query], ranked) for ranked in z.detach()]
        too_far = [d[p] - (alpha - margin) for p in positives_of(query, labels) if d[p] > alpha - margin]
        too_near = [alpha - d[n] for n in negatives_of(query, labels) if d[n] < alpha]
        strengths = [math.exp(temperature * value.item()) for value in too_near]
        pushes = total(s / sum(strengths) * value for s, value in zip(strengths, too_near, strict=True))
        losses.append((1 - imbalance) * mean(too_far) + imbalance * pushes)
    return mean(losses)


def generalized_lifted(embeddings, labels, margin, norm_weight):
    d = all_distances(embeddings)
    losses = []
    for a in range(len(labels)):
        positives, negatives = positives_of(a, labels), negatives_of(a, labels)
        gap = zero()
        if positives and negatives:
            farthest = torch.log(total(torch.exp(d[a][p]) for p in positives))
            nearest = torch.log(total(torch.exp(margin - d[a][n]) for n in negatives))
            gap = farthest + nearest
        losses.append(hinge(gap))
    return mean(losses) + norm_weight * mean([x.square().sum().sqrt() for x in embeddings])


def histogram(embeddings, labels, num_bins):
    z, width = unit_length(embeddings), 2 / num_bins
    nodes = [-1 + step * width for step in range(num_bins + 1)]

    def shares(found):
        similarities = [(s, s.item()) for s in (z[a] @ z[b] for a, b in found if a < b)]
        near = [[s for s, value in similarities if abs(value - node) < width] for node in nodes]
        return [
            total(1 - abs(s - node) / width for s in of_node) / max(len(similarities), 1)
            for node, of_node in zip(nodes, near, strict=True)
        ]

    of_positives, of_negatives = shares(positive_pairs(labels)), shares(negative_pairs(labels))
    return total(of_negatives[r] * total(of_positives[: r + 1]) for r in range(len(nodes)))


def ephn(embeddings, labels, temperature):
    return easy_positive_loss(embeddings, labels, temperature, lambda negatives, positive: negatives)


def epshn(embeddings, labels, temperature):
    def behind(negatives, positive):
        return [s for s in negatives if s < positive]

    return easy_positive_loss(embeddings, labels, temperature, behind)


def easy_positive_loss(embeddings, labels, temperature, candidates):
    z = unit_length(embeddings)
    losses = []
    for a in range(len(labels)):
        positives = [z[a] @ z[p] for p in positives_of(a, labels)]
        if positives:
            positive = largest(positives)
            negatives = candidates([z[a] @ z[n] for n in negatives_of(a, labels)], positive)
            if negatives:
                shares = (torch.stack([positive, largest(negatives)]) / temperature).softmax(0)
                losses.append(-torch.log(shares[0]))
    return mean(losses)


def largest(values):
    """Copies of an image share the gradient."""
    return mean([value for value in values if value == max(values)])
