"""A made-up results folder, in the format that the `collect` stage writes, with everything that can go wrong in it.

On the first data set, MAP@R of three seeds is by hand: contrastive 0.39, 0.40, 0.41; triplet 0.405, 0.395, 0.385;
margin 0.30, 0.31, 0.29; the untrained trunk 0.10 always. `proxy_nca` fails in every trial, trial 2 of contrastive in
one fold, and on the second data set one fold of margin's last seed.

With `everything`, the study also has factors, other ways of retrieval, pairs, the geometry of training embeddings and
checkpoints: what they add to each seed's value stands in `EFFECTS`, `GAINS`, `geometry` and `_selection`.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

FOLDS = 4
SIZE = 128
FOLD_OFFSETS = (-0.003, -0.001, 0.001, 0.003)
SEED_OFFSETS = ((-0.01, 0.0, 0.01), (0.01, 0.0, -0.01), (0.0, 0.01, -0.01))
ABOVE_MAP_AT_R = {"precision_at_1": 0.3, "r_precision": 0.1, "map_at_r": 0.0, "recall_at_10": 0.5, "nmi": 0.2}
CONCATENATED_GAIN = 0.05
NAN = "the loss is NaN at step 40"
METHODS = {
    "pretrained": ("Pretrained", 0.10),
    "contrastive": ("Contrastive", 0.40),
    "triplet": ("Triplet", 0.395),
    "margin": ("Margin & co_50%", 0.30),
    "proxy_nca": ("ProxyNCA", None),
} | {f"method_{i}": (f"Method {i}", 0.3 - 0.01 * i) for i in range(5, 20)}
NAMES = list(METHODS)
EFFECTS = {
    "d64": (-0.05, -0.04, -0.06), "d512": (0.02, 0.02, 0.02), "odd": (0.0, 0.01, -0.01), "d64b": (-0.1, -0.1, -0.1),
    "d512b": (-0.1, -0.1, -0.1),
}  # fmt: skip
"""What a level of a factor adds to each seed's value."""
GAINS = {"": (0.0, 0.0, 0.0), "binary": (-0.03, -0.02, -0.04), "reranked": (0.04, 0.04, 0.04)}
"""What a way of retrieval adds to each seed's value."""
CORRELATIONS = [
    {"dataset": "birds1", "measure": measure, "methods": n, "r": r}
    for measure, n, r in (("pi_intra", 18, 0.25), ("rho_2", 18, -0.8), ("rho_2", 23, -0.81))
]
"""What a paper has over its methods: on the first data set alone."""
CHOSEN_STEP = 200
ABOVE_AT_STEP = {
    "precision_at_1": {0: -0.3, 100: -0.01, 200: 0.0, 300: 0.02}, "map_at_r": {0: -0.3, 100: 0.01, 200: 0.0, 300: -0.01}
}  # fmt: skip
"""Test values of the models of all validations beside those of the chosen one."""
RANGES = {"margin": {"low": -0.2, "high": 2.0}, "weights_lr": {"low": 1e-6, "high": 1.0, "log": True}}
PROVENANCE = {
    "search": "ab12ab12ab12ab12", "commit": "0123456789ab", "code": "c0dec0dec0dec0de", "device": "A <fast> processor",
    "device_type": "cpu", "host": "a-host.example.org", "threads": 2, "trial": 4, "random_seed": 2**62 + 1,
    "resumed": 0, "embedded_by": "c0ffee; torch 2.12; CPU; n1", "measured_by": "c0ffee; torch 2.12; CPU; n2",
    "peak_memory_mb": 900, "embedding_seconds": 9, "measuring_seconds": 4.5,
    "measuring_code": "3ea53ea53ea53ea5", "model": "30de1" * 12, "embeddings": "e3bed" * 12, "torch": "2.12.0",
    "python": "3.11.7", "weights": "", "versions": "faiss 1.15.1, numpy 2.4.6",
}  # fmt: skip


def write(
    folder: Path,
    *,
    methods: Sequence[str] = NAMES[:5],
    datasets: int = 2,
    seeds: int = 3,
    trials: int = 6,
    everything: bool = False,
) -> Path:
    """Write a study of these methods and so many data sets; give the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    factors = _factors(methods) if everything else []
    runs = [run["name"] for factor in factors for level in factor["levels"] for run in level["runs"].values()]
    places = [(f"birds{i}", name) for i in range(1, datasets + 1) for name in [*methods, *runs]]
    measured = [*_metrics(places, seeds, GAINS if everything else [""])]
    _write(
        folder / "metrics.csv",
        "study,dataset,method,seed,fold,embedding,retrieval,metric,value,n_queries",
        measured + [*_geometries(places, seeds)] if everything else measured,
    )
    _write(
        folder / "trials.csv",
        "dataset,method,trial,parameters,fold,score,best_step,steps,failure,seconds,device_type,threads",
        _trials(places, trials),
    )
    _write(folder / "curves.csv", "dataset,method,stage,number,fold,step,loss,map_at_r", _curves(places, seeds))
    _write(
        folder / "runs.csv",
        "dataset,method,seed,fold,trial,search,parameters,random_seed,embedding_size,steps,best_step,best_map_at_r,"
        "seconds,resumed,failure,commit,code,device_type,device,host,threads,peak_memory_mb,peak_gpu_memory_mb,torch,"
        "python,versions,data,test,weights,model,embeddings,embedding_seconds,embedded_by,measuring_seconds,measuring_code,measured_by",
        _runs(places, seeds),
    )
    _write(
        folder / "best.csv",
        "dataset,method,trial,score,sem,parameters,edges,failed_trials,trials,ranges,failure,origin",
        _best(places, trials),
    )
    _write(folder / "costs.csv", "dataset,method,stage,device_type,jobs,hours", _costs(places, seeds, trials))
    _write(
        folder / "selection.csv",
        "dataset,method,seed,fold,step,validation,chosen,precision_at_1,map_at_r",
        _selection(places, seeds) if everything else [],
    )
    _write(folder / "published.csv", "dataset,embedding,method,metric,mean,half_width,source,note,reason", [])
    beside = {"factors": factors, "retrieval": WAYS, "pairs": _pairs(methods)} if everything else {}
    (folder / "study.json").write_text(json.dumps(_study(methods, datasets) | beside))
    return folder


def map_at_r(dataset: str, run: str, seed: int) -> float:
    """A seed's separated MAP@R: the mean of its folds."""
    method, _, of_factor = run.partition("-")
    level = METHODS[method][1] - 0.02 * (int(dataset.removeprefix("birds")) - 1)
    level += EFFECTS[of_factor][seed % 3] if of_factor else 0.0
    if method == "pretrained":
        return level
    return level + SEED_OFFSETS[(NAMES.index(method) - 1) % 3][seed % 3]


def geometry(run: str, seed: int) -> dict[str, float]:
    """What a seed's embeddings of training images look like: rho@2 falls as MAP@R grows, pi inter stays the same."""
    method = run.partition("-")[0]
    pi_intra, rho = 0.2 + 0.01 * (NAMES.index(method) % 4), 1 - METHODS[method][1]
    values = {"pi_intra": pi_intra, "pi_inter": 0.8, "pi_ratio": pi_intra / 0.8, "rho_1": 2 * rho, "rho_2": rho}
    offset = 0.0 if method == "pretrained" else SEED_OFFSETS[NAMES.index(method) % 3][seed % 3]
    return values | {"rho_2": rho + offset, "rho_10": rho / 2, "rho_minus_1": rho / 4}


def _failure(dataset: str, run: str, seed: int, fold: int) -> str:
    if METHODS[run.partition("-")[0]][1] is None:
        return f"no trial succeeded: {NAN}"
    if run == "margin-odd":
        return NAN
    return NAN if (dataset, run, seed, fold) == ("birds2", "margin", 2, 3) else ""


def _finished(places, seeds):
    for dataset, run in places:
        for seed in range(seeds):
            if not any(_failure(dataset, run, seed, fold) for fold in range(FOLDS)):
                yield dataset, run, seed


def _metrics(places, seeds, ways):
    for dataset, method, seed in _finished(places, seeds):
        for way in ways:
            run = {"study": "example", "dataset": dataset, "method": method, "seed": seed, "n_queries": 1000}
            run |= {"retrieval": way}
            for metric, above in ABOVE_MAP_AT_R.items():
                value = map_at_r(dataset, method, seed) + above + (GAINS[way][seed % 3] if way else 0.0)
                for fold, offset in enumerate(FOLD_OFFSETS):
                    of_fold = {"fold": fold, "embedding": "separated", "metric": metric, "value": value + offset}
                    yield run | of_fold
                joined = {"fold": "", "embedding": "concatenated", "metric": metric, "value": value + CONCATENATED_GAIN}
                yield run | joined


def _geometries(places, seeds):
    for dataset, method, seed in _finished(places, seeds):
        for fold, offset in enumerate(FOLD_OFFSETS):
            for metric, value in geometry(method, seed).items():
                yield {
                    "study": "example", "dataset": dataset, "method": method, "seed": seed, "fold": fold,
                    "embedding": "training", "metric": metric, "value": value + offset, "n_queries": 3750,
                }  # fmt: skip


def _selection(places, seeds):
    """The best P@1 of a test stands above the chosen model's by 0.02 + 0.01 (seed - 1), the best MAP@R by 0.01."""
    for dataset, method in places:
        for seed in range(seeds):
            for fold, offset in enumerate(FOLD_OFFSETS):
                if method.startswith("pretrained") or _failure(dataset, method, seed, fold):
                    continue
                for step in ABOVE_AT_STEP["map_at_r"]:
                    values = {
                        metric: map_at_r(dataset, method, seed) + ABOVE_MAP_AT_R[metric] + offset + above[step]
                        for metric, above in ABOVE_AT_STEP.items()
                    }
                    values["precision_at_1"] += 0.01 * (seed - 1) * (step == 300)
                    yield values | {
                        "dataset": dataset, "method": method, "seed": seed, "fold": fold, "step": step,
                        "validation": 0.5 - abs(step - CHOSEN_STEP) / 1000, "chosen": step == CHOSEN_STEP,
                    }  # fmt: skip


def _trials(places, trials):
    for dataset, method in places:
        for trial in range(1 if method == "pretrained" else trials):
            for fold in range(FOLDS):
                level = METHODS[method.partition("-")[0]][1]
                failed = level is None or (method, trial, fold) == ("contrastive", 2, 1)
                score = "" if failed else level + 0.1 - 0.02 * abs(trial - 4) + FOLD_OFFSETS[fold]
                yield {
                    "dataset": dataset, "method": method, "trial": trial, "fold": fold, "score": score,
                    "parameters": json.dumps({"margin": 0.1 * trial, "weights_lr": 10.0 ** (-1 - trial % 5)}),
                    "best_step": 100, "steps": 200,
                    "failure": NAN if failed else "", "seconds": 36, "device_type": "cpu", "threads": 2,
                }  # fmt: skip


def _curves(places, seeds):
    for dataset, method in places:
        level = METHODS[method.partition("-")[0]][1]
        if method == "pretrained" or level is None:
            continue
        for seed in range(seeds):
            for fold in range(FOLDS):
                for step in range(0, 500 - 100 * (fold == 3), 100):
                    value = level + 0.1 + FOLD_OFFSETS[fold] - 0.2 / (1 + step / 50)
                    yield {
                        "dataset": dataset, "method": method, "stage": "final", "number": seed, "fold": fold,
                        "step": step, "loss": "" if step == 0 else 1 / step, "map_at_r": value,
                    }  # fmt: skip


def _runs(places, seeds):
    for dataset, method in places:
        for seed in range(seeds):
            for fold in range(FOLDS):
                yield PROVENANCE | {
                    "dataset": dataset, "method": method, "seed": seed, "fold": fold, "parameters": "{}",
                    "embedding_size": SIZE, "steps": 400, "best_step": 300, "best_map_at_r": 0.5, "seconds": 90,
                    "failure": _failure(dataset, method, seed, fold), "data": f"da7a{dataset}",
                    "test": f"7e57{dataset}",
                }  # fmt: skip


def _costs(places, seeds, trials):
    for dataset, method in places:
        jobs = {"search": (FOLDS * (1 if method == "pretrained" else trials), 36), "final": (FOLDS * seeds, 90)}
        jobs |= {"embedding": (FOLDS * seeds, 9), "measuring": (seeds, 4.5)}
        for stage, (number, seconds) in jobs.items():
            if METHODS[method.partition("-")[0]][1] is not None or stage == "search":
                of_stage = {"stage": stage, "device_type": "cpu", "jobs": number, "hours": number * seconds * 2 / 3600}
                yield {"dataset": dataset, "method": method} | of_stage


def _best(places, trials):
    for dataset, method in places:
        row = {"dataset": dataset, "method": method, "trials": trials, "failed_trials": int(method == "contrastive")}
        row |= {"origin": "search"}
        level = METHODS[method.partition("-")[0]][1]
        if level is None:
            parameters = {"margin": 0.0, "weights_lr": 0.001}
            row |= {"trial": 0, "score": 0.0, "failed_trials": trials, "failure": f"fold 0: {NAN}"}
            yield row | {"parameters": json.dumps(parameters), "edges": "{}", "ranges": json.dumps(RANGES)}
        elif method == "pretrained":
            yield row | {"trial": 0, "score": 0.1, "trials": 1, "parameters": "{}", "edges": "{}", "ranges": "{}"}
        else:
            parameters = {"margin": 1.99 if method == "triplet" else 0.4, "weights_lr": 1.25e-05}
            edges = {"margin": "high"} if method == "triplet" else {}
            row |= {"trial": 4, "score": level + 0.1, "sem": 0.0013}
            yield row | {"parameters": json.dumps(parameters), "edges": json.dumps(edges), "ranges": json.dumps(RANGES)}


WAYS = {"binary": {"title": "Binary"}, "reranked": {"title": "Re-ranked & odd_50%"}}


def _factors(methods):
    """Two that share an axis, of which one holds the study's own value, and one whose levels are no numbers."""
    trained = [name for name in methods if name != "pretrained"]
    dimension = {"title": "Embedding size", "curve": "", "study": "128", "at": 128.0}
    frozen = {"title": "Embedding size", "curve": "frozen", "study": None, "at": None}
    trunk = {"title": "Trunk & more", "curve": "", "study": "BN-Inception", "at": None}
    return [
        {"name": "dimension", **dimension, "methods": trained, "levels": [
            _level("d512", "512", 512.0, {"embedding_size": 512}, trained),
            _level("d64", "64", 64.0, {"embedding_size": 64}, trained),
        ]},
        {"name": "frozen", **frozen, "methods": trained[:1], "levels": [
            _level("d64b", "64", 64.0, {"embedding_size": 64}, trained[:1]),
            _level("d512b", "512", 512.0, {"embedding_size": 512}, trained[:1]),
        ]},
        {"name": "trunk", **trunk, "methods": list(methods), "levels": [
            _level("odd", "Odd_50% <trunk>", None, {"trunk": "odd", "weights": None}, methods),
        ]},
    ]  # fmt: skip


def _level(name, title, at, changes, methods):
    runs = {
        method: _method(method) | {"name": f"{method}-{name}", "title": f"{METHODS[method][0]}, {title}"}
        for method in methods
    }
    return {"name": name, "title": title, "at": at, "changes": changes, "runs": runs}


def _pairs(methods):
    known = {"triplet": "contrastive", "margin": "triplet", "proxy_nca": "margin"}
    return {method: base for method, base in known.items() if {method, base} <= set(methods)}


def _method(name):
    return {
        "name": name, "file": name, "title": METHODS[name][0], "ranges": {} if name == "pretrained" else RANGES,
        "fixed": {"power": 1} if name == "margin" else {}, "images_per_class": 4,
        "trains": name != "pretrained",
    }  # fmt: skip


def _study(names, datasets):
    return {
        "study": "example",
        "title": "An example & its results",
        "description": "Made up.",
        "datasets": [
            {
                "name": f"birds{i}", "title": f"Birds {i}", "classes_trainval": 100, "classes_test": 100,
                "images_trainval": 5000, "images_test": 5100, "source": "https://example.org/birds",
                "terms": "research", "recall_at": [1, 10],
            }
            for i in range(1, datasets + 1)
        ],
        "factors": [],
        "retrieval": {},
        "pairs": {},
        "methods": [_method(name) for name in names],
        "hyperparameters": "search",
        "counterpart": {
            "title": "A paper", "url": "https://example.org", "setting": "main", "correlations": CORRELATIONS,
        },
        "protocol": {"trunk": "bn_inception", "crop_scale": [0.16, 1.0], "seeds": 3, "folds": FOLDS,
                     "weights": {"file": "bn_inception.pth", "sha256": "0123abcd", "urls": []}},
        "protocol_help": {"trunk": "the network before the embedding", "seeds": "reproductions of the best trial"},
    }  # fmt: skip


def _write(path: Path, columns: str, rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns.split(","), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
