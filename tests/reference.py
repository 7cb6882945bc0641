"""The losses as their definitions read: loops over anchors, pairs and triplets, one number at a time.

Every function is named after its file in dml/methods/ and takes raw embeddings (B, D), labels (B,), and the method's
hyperparameters and own weights by name. Nothing is shared with dml: this is what dml is checked against. Gradients come
from autograd; the distance of equal vectors is a constant zero.
"""

import math

import torch

SMALLEST_SHARE = 1e-20


def contrastive(embeddings, labels, pos_margin, neg_margin):
    z = unit_length(embeddings)
    too_far = [hinge(distance(z[a], z[p]) - pos_margin) for a, p in positive_pairs(labels)]
    too_near = [hinge(neg_margin - distance(z[a], z[n])) for a, n in negative_pairs(labels)]
    return mean_of_nonzero(too_far) + mean_of_nonzero(too_near)


def triplet(embeddings, labels, margin):
    z = unit_length(embeddings)
    d = all_distances(z)
    return mean_of_nonzero([hinge(d[a][p] - d[a][n] + margin) for a, p, n in triplets(labels)])


def ntxent(embeddings, labels, temperature):
    z = unit_length(embeddings)
    losses = []
    for anchor, positive in positive_pairs(labels):
        logits = [z[anchor] @ z[positive] / temperature]
        logits += [z[anchor] @ z[other] / temperature for other in negatives_of(anchor, labels)]
        share = torch.stack(logits).softmax(0)[0]
        losses.append(-torch.log(share + SMALLEST_SHARE))
    return mean(losses)


def proxy_nca(embeddings, labels, softmax_scale, proxies):
    z, proxies = unit_length(embeddings), unit_length(proxies)
    losses = []
    for x, label in zip(z, labels, strict=True):
        shares = torch.stack([-softmax_scale * (x - proxy).square().sum() for proxy in proxies]).softmax(0)
        losses.append(-torch.log(shares[label]))
    return mean(losses)


def margin(embeddings, labels, margin, beta):
    return margin_loss(embeddings, labels, margin, [beta[0]] * len(labels))


def margin_class(embeddings, labels, margin, beta):
    return margin_loss(embeddings, labels, margin, [beta[label] for label in labels])


def margin_loss(embeddings, labels, margin, boundaries):
    d = all_distances(unit_length(embeddings))
    terms = []
    for a, p, n in triplets(labels):
        terms += [hinge(d[a][p] - boundaries[a] + margin), hinge(boundaries[a] - d[a][n] + margin)]
    return mean_of_nonzero(terms)


def normalized_softmax(embeddings, labels, temperature, weights):
    return mean([cross_entropy(c / temperature, y) for c, y in cosines_to_classes(embeddings, labels, weights)])


def cosface(embeddings, labels, margin, scale, weights):
    losses = []
    for cosines, label in cosines_to_classes(embeddings, labels, weights):
        logits = [scale * (c - margin if k == label else c) for k, c in enumerate(cosines)]
        losses.append(cross_entropy(torch.stack(logits), label))
    return mean(losses)


def arcface(embeddings, labels, margin, scale, weights):
    losses = []
    for cosines, label in cosines_to_classes(embeddings, labels, weights):
        own = torch.cos(torch.acos(cosines[label]) + math.radians(margin))
        logits = [scale * (own if k == label else c) for k, c in enumerate(cosines)]
        losses.append(cross_entropy(torch.stack(logits), label))
    return mean(losses)


def fastap(embeddings, labels, num_bins):
    z = unit_length(embeddings)
    centres = [4 * step / num_bins for step in range(num_bins + 1)]

    def histogram(anchor, others):
        squares = [(z[anchor] - z[other]).square().sum() for other in others]
        return [total(hinge(1 - abs(square - c) * num_bins / 4) for square in squares) for c in centres]

    losses = []
    for anchor in range(len(labels)):
        positives, negatives = positives_of(anchor, labels), negatives_of(anchor, labels)
        if positives:
            hits, misses = histogram(anchor, positives), histogram(anchor, negatives)
            precision_sum = total(
                hits[b] * total(hits[: b + 1]) / (total(hits[: b + 1]) + total(misses[: b + 1]))
                for b in range(len(centres))
                if hits[b] > 0
            )
            losses.append(1 - precision_sum / len(positives))
    return mean(losses)


def snr_contrastive(embeddings, labels, pos_margin, neg_margin, regularizer_weight):
    z = unit_length(embeddings)

    def noise_to_signal(a, b):
        return (z[a] - z[b]).var() / z[a].var()

    too_far = [hinge(noise_to_signal(a, p) - pos_margin) for a, p in positive_pairs(labels)]
    too_near = [hinge(neg_margin - noise_to_signal(a, n)) for a, n in negative_pairs(labels)]
    not_centred = mean([abs(x.sum()) for x in z])
    return mean_of_nonzero(too_far) + mean_of_nonzero(too_near) + regularizer_weight * not_centred


def multi_similarity(embeddings, labels, alpha, beta, base):
    def mine(positives, negatives):
        return positives, negatives

    return multi_similarity_loss(embeddings, labels, alpha, beta, base, mine)


def multi_similarity_miner(embeddings, labels, alpha, beta, base, epsilon):
    def mine(positives, negatives):
        if not positives or not negatives:
            return [], []
        return (
            [s for s in positives if s < max(negatives) + epsilon],
            [s for s in negatives if s > min(positives) - epsilon],
        )

    return multi_similarity_loss(embeddings, labels, alpha, beta, base, mine)


def multi_similarity_loss(embeddings, labels, alpha, beta, base, mine):
    z = unit_length(embeddings)
    losses = []
    for anchor in range(len(labels)):
        positives, negatives = mine(
            [z[anchor] @ z[p] for p in positives_of(anchor, labels)],
            [z[anchor] @ z[n] for n in negatives_of(anchor, labels)],
        )
        losses.append(
            torch.log(1 + total(torch.exp(-alpha * (s - base)) for s in positives)) / alpha
            + torch.log(1 + total(torch.exp(beta * (s - base)) for s in negatives)) / beta
        )
    return mean(losses)


def soft_triple(embeddings, labels, la, gamma, reg_weight, margin, centers):
    z, centers = unit_length(embeddings), unit_length(centers)
    num_classes, per_class = centers.shape[:2]
    losses = []
    for x, label in zip(z, labels, strict=True):
        logits = []
        for k in range(num_classes):
            s = torch.stack([x @ center for center in centers[k]])
            relaxed = ((s / gamma).softmax(0) * s).sum()
            logits.append(la * (relaxed - margin if k == label else relaxed))
        losses.append(cross_entropy(torch.stack(logits), label))
    if per_class == 1:
        return mean(losses)
    spread = total(
        torch.sqrt(2 - 2 * centers[k, i] @ centers[k, j] + 1e-5)
        for k in range(num_classes)
        for i in range(per_class)
        for j in range(i + 1, per_class)
    )
    return mean(losses) + reg_weight * spread / (num_classes * per_class * (per_class - 1))


def unit_length(vectors):
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt()


def distance(a, b):
    return zero() if torch.equal(a, b) else (a - b).square().sum().sqrt()


def all_distances(vectors):
    return [[distance(a, b) for b in vectors] for a in vectors]


def cosines_to_classes(embeddings, labels, weights):
    weights = unit_length(weights)
    return [(torch.stack([x @ w for w in weights]), y) for x, y in zip(unit_length(embeddings), labels, strict=True)]


def cross_entropy(logits, label):
    return torch.log(torch.exp(logits - logits.max()).sum()) - (logits[label] - logits.max())


def positives_of(anchor, labels):
    return [other for other in range(len(labels)) if other != anchor and labels[other] == labels[anchor]]


def negatives_of(anchor, labels):
    return [other for other in range(len(labels)) if labels[other] != labels[anchor]]


def positive_pairs(labels):
    return [(anchor, other) for anchor in range(len(labels)) for other in positives_of(anchor, labels)]


def negative_pairs(labels):
    return [(anchor, other) for anchor in range(len(labels)) for other in negatives_of(anchor, labels)]


def triplets(labels):
    return [(a, p, n) for a, p in positive_pairs(labels) for n in negatives_of(a, labels)]


def hinge(value):
    return value if value > 0 else zero()


def mean_of_nonzero(terms):
    return mean([term for term in terms if term > 0])


def mean(terms):
    return total(terms) / len(terms) if terms else zero()


def total(terms):
    return sum(terms, start=zero())


def zero():
    return torch.zeros((), dtype=torch.float64)
