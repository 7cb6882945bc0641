"""Losses of proxies, classifiers and networks of a loss's own, as their definitions read: see reference.py."""

import math

import torch
from reference import (
    cross_entropy,
    hinge,
    mean,
    mean_of_nonzero,
    negative_pairs,
    positive_pairs,
    proxy_nca,
    total,
    unit_length,
)


def proxy_nca_classic(embeddings, labels, softmax_scale, proxies):
    z, proxies = unit_length(embeddings), unit_length(proxies)
    losses = []
    for x, label in zip(z, labels, strict=True):
        nearness = [torch.exp(-softmax_scale * (x - proxy).square().sum()) for proxy in proxies]
        own = nearness.pop(label)
        losses.append(-torch.log(own / total(nearness)))
    return mean(losses)


def proxy_nca_pp(embeddings, labels, softmax_scale, proxies):
    return proxy_nca(embeddings, labels, softmax_scale, proxies)


def proxy_anchor(embeddings, labels, alpha, margin, proxies):
    z, proxies = unit_length(embeddings), unit_length(proxies)
    pulls, pushes = [], []
    for k, proxy in enumerate(proxies):
        own = [x @ proxy for x, label in zip(z, labels, strict=True) if label == k]
        others = [x @ proxy for x, label in zip(z, labels, strict=True) if label != k]
        if own:
            pulls.append(torch.log(1 + total(torch.exp(-alpha * (s - margin)) for s in own)))
        pushes.append(torch.log(1 + total(torch.exp(alpha * (s + margin)) for s in others)))
    return mean(pulls) + mean(pushes)


def proxy_gml(embeddings, labels, r, reg_weight, proxies):
    z, proxies = unit_length(embeddings), unit_length(proxies)
    num_classes, per_class = proxies.shape[:2]
    neighbours = max(math.ceil(r * num_classes * per_class), 2 * per_class)

    losses = []
    for x, label in zip(z, labels.tolist(), strict=True):
        cosines = {(k, n): x @ proxies[k, n] for k in range(num_classes) for n in range(per_class)}
        nearest = sorted(cosines, key=lambda proxy: (proxy[0] != label, -cosines[proxy].item()))[:neighbours]
        classes = sorted({k for k, _ in nearest})
        logits = [total(cosines[proxy] for proxy in nearest if proxy[0] == k) for k in classes]
        losses.append(cross_entropy(torch.stack(logits), classes.index(label)))

    confusions = []
    for k in range(num_classes):
        for proxy in proxies[k]:
            logits = torch.stack([(proxies[other] @ proxy).sum() for other in range(num_classes)])
            confusions.append(cross_entropy(logits, k))
    return mean(losses) + reg_weight * mean(confusions)


def group_loss(embeddings, labels, temperature, anchors, draws, parameters):
    weight, bias = parameters["classifier.weight"], parameters["classifier.bias"]
    images, order, num_classes = range(len(labels)), draws[0], len(bias)
    logits = [torch.stack([x @ w + b for w, b in zip(weight, bias, strict=True)]) for x in embeddings]

    shares = []
    for i in images:
        first = sorted((j for j in images if labels[j] == labels[i]), key=lambda j: order[j])[:anchors]
        if i in first:
            shares.append([1.0 if k == labels[i] else 0.0 for k in range(num_classes)])
        else:
            shares.append((logits[i] / temperature).softmax(0))

    centred = unit_length(torch.stack([x - x.mean() for x in embeddings]))
    losses = []
    for i in images:
        likeness = [1.0 if i == j else hinge(centred[i] @ centred[j]) for j in images]
        support = [total(likeness[j] * shares[j][k] for j in images) for k in range(num_classes)]
        supported = [shares[i][k] * support[k] for k in range(num_classes)]
        share = supported[labels[i]] / total(supported)
        losses.append(cross_entropy(logits[i], labels[i]) - torch.log(share + 1e-12))
    return mean(losses)


def intra_batch(embeddings, labels, temperature, parameters):
    def linear(name, x):
        bias = parameters.get(f"{name}.bias", 0)
        return parameters[f"{name}.weight"] @ x + bias

    def layer_norm(name, x):
        standardised = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5)
        return standardised * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]

    def smoothed(logits, label):
        logits = logits / temperature
        wrong = mean([cross_entropy(logits, k) for k in range(len(logits))])
        return 0.9 * cross_entropy(logits, label) + 0.1 * wrong

    z = unit_length(embeddings)
    size, width, block = len(z), z.shape[1], "blocks.0"
    attention_weight = parameters[f"{block}.self_attn.in_proj_weight"]
    attention_bias = parameters[f"{block}.self_attn.in_proj_bias"]
    queries, keys, values = (
        [attention_weight[part : part + width] @ x + attention_bias[part : part + width] for x in z]
        for part in (0, width, 2 * width)
    )
    messages = []
    for i in range(size):
        attended = []
        for head in (slice(0, width // 2), slice(width // 2, width)):
            scores = [torch.exp(queries[i][head] @ keys[j][head] / math.sqrt(width // 2)) for j in range(size)]
            attended.append(total(scores[j] * values[j][head] for j in range(size)) / (1 + total(scores)))
        x = layer_norm(f"{block}.norm1", z[i] + linear(f"{block}.self_attn.out_proj", torch.cat(attended)))
        made = linear(f"{block}.linear2", torch.relu(linear(f"{block}.linear1", x)))
        messages.append(layer_norm(f"{block}.norm2", x + made))

    neck = torch.stack(messages)
    neck = (neck - neck.mean(0)) / torch.sqrt(neck.var(0, unbiased=False) + 1e-5)
    alone = [smoothed(linear("alone", x), label) for x, label in zip(embeddings, labels, strict=True)]
    together = [smoothed(linear("together", x), label) for x, label in zip(neck, labels, strict=True)]
    return mean(alone) + mean(together)


def horde(embeddings, maps, labels, margin, projections, buffers):
    orders = len(projections) + 1
    signs = buffers["signs"].chunk(orders, dim=1)
    of_orders = {1: embeddings}
    for order in range(2, orders + 1):
        moments = []
        for image in maps:
            places = [image[:, row, column] for row in range(image.shape[1]) for column in range(image.shape[2])]
            products = []
            for place in places:
                product = 1
                for k in range(order):
                    product = product * (place @ signs[k])
                products.append(product)
            moments.append(total(products) / len(places))
        of_orders[order] = torch.stack(moments) @ projections[order - 2]

    def contrastive(vectors):
        z = unit_length(vectors)
        too_far = mean([(1 - z[a] @ z[p]) ** 2 for a, p in positive_pairs(labels)])
        too_near = mean_of_nonzero([hinge(z[a] @ z[n] - margin) for a, n in negative_pairs(labels)])
        return too_far / 2 + too_near / 2

    return total(contrastive(vectors) for vectors in of_orders.values())


def a_bier(embeddings, labels, beta, negative_cost, adversary, parameters):
    width = embeddings.shape[1]
    ends = [0, 3 * width // 16, 8 * width // 16, width]
    heads = [unit_length(embeddings[:, start:end]) for start, end in zip(ends, ends[1:], strict=False)]

    def boosted(a, b, sign):
        first, second, third = (2 * sign * (z[a] @ z[b] - beta) for z in heads)
        after_two = first / 3 + 2 * second / 3
        weights = [1, 1 / (1 + torch.exp(first.detach())), 1 / (1 + torch.exp(after_two.detach()))]
        return total(w * torch.log(1 + torch.exp(-u)) for w, u in zip(weights, (first, second, third), strict=True)) / 3

    def likeness(heads, parameters):
        found = []
        for number, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
            first, last = f"regressors.{number}.0", f"regressors.{number}.2"
            for a, b in zip(heads[i], heads[j], strict=True):
                hidden = torch.relu(parameters[f"{first}.weight"] @ b + parameters[f"{first}.bias"])
                made = unit_length(parameters[f"{last}.weight"] @ hidden + parameters[f"{last}.bias"])
                found.append(len(a) * ((a * made) ** 2).sum())
        return total(found) / len(embeddings)

    fixed_networks = likeness(heads, {name: weight.detach() for name, weight in parameters.items()})
    fixed_heads = likeness([head.detach() for head in heads], parameters)
    # the heads descend the likeness, the networks ascend it
    adversarial = fixed_networks - fixed_heads - fixed_networks.detach()
    pulls = mean([boosted(a, p, 1) for a, p in positive_pairs(labels)])
    pushes = mean([boosted(a, n, -negative_cost) for a, n in negative_pairs(labels)])
    return pulls + pushes + adversary * adversarial
