"""Does our search find the best setting? It is let loose on the response surfaces of the paper's own 53 searches.

    python fidelity/search.py --output reports/fidelity

`workflow/published/` holds what A Metric Learning Reality Check (Musgrave et al., ECCV 2020) tried: 50 settings of
each of 53 searches, with the score of each. From them we make a surface, the validation MAP@R as a function of the
hyperparameters, in two ways (SURFACES). On every surface the search of `dml/search.py` gets the paper's 50 trials.
What counts is its regret: the maximum of the surface minus its value at the setting that the search would choose.
Beside it stand random search and the paper's own 50 settings.

Limits. Where the paper tried nothing, a surface is a guess that falls back to a mean. The surfaces were fitted to the
paper's trials, so their maximum tends to lie near the paper's best, which favours the paper in the comparison; and the
paper searched narrower ranges at first where it widened them later. Noise is drawn on one kind of surface only, the
same for all settings; where single folds had diverged (SOP: ArcFace, Normalized Softmax) the fit takes it for large.
"""

import argparse
import csv
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: the surfaces are small, and --jobs processes share
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scipy.optimize import minimize
from scipy.stats import qmc
from tqdm import tqdm

from dml.search import Range, Tried, propose
from dml.seeds import derive_seed, generator

PUBLISHED = Path(__file__).resolve().parent.parent / "workflow" / "published" / "reality_check"
SURFACES = {
    "refitted": "a Gaussian process fitted to the 50 scores, with one noise level for all of them",
    "noisy": "the same; a search sees its values with that noise and chooses the best it saw",
    "paper's": "the posterior mean of the paper's own Gaussian process, which took the spread over folds as noise",
}
SOBOL_TRIALS = 5
RANDOM_SEARCHES = 200
CLOSE = 0.01
"""A search has arrived when it lacks at most this share of the surface's range."""
TIE = 0.0005
"""Regrets that differ by less, in MAP@R, count as equal: less than half the narrowest of the paper's intervals."""
REPEAT = 0.002
"""Two settings nearer than this share of every range are the same setting tried again."""


@dataclass(frozen=True)
class Search:
    """One search of the paper: final ranges, and its trials in order, as shares of the ranges (on their scale)."""

    dataset: str
    setting: str
    method: str
    ranges: dict[str, Range]
    points: np.ndarray  # (trials, hyperparameters), in [0, 1]
    scores: np.ndarray  # (trials,): mean validation MAP@R over folds
    sems: np.ndarray  # (trials,): standard error of the mean over folds
    lengthscales: np.ndarray  # of the paper's Gaussian process, as shares of the ranges
    signal: float  # its prior standard deviation
    mean: float  # its prior mean

    @property
    def names(self) -> tuple[str, str, str]:
        return self.dataset, self.setting, self.method


@dataclass(frozen=True)
class Surface:
    """The posterior mean of a Gaussian process with a Matern-5/2 kernel: mean + kernel(x, points) @ weights."""

    points: np.ndarray
    lengthscales: np.ndarray
    weights: np.ndarray
    mean: float
    noise: float  # standard deviation of one score
    error: float  # how far, in the root mean square, it misses the best 15 scores, each left out of the fit in turn

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(n, hyperparameters) in [0, 1] -> (n,) scores."""
        return self.mean + matern(points, self.points, self.lengthscales) @ self.weights


@dataclass(frozen=True)
class Outcome:
    """What one search did on a surface: noise-free values of its trials in order, and of the trial it chose so far."""

    values: np.ndarray  # (searches, trials)
    chosen: np.ndarray  # (searches, trials)
    repeats: float = 0.0  # trials of a search that repeat a setting, mean over searches


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="the regret of our search on the paper's 53 response surfaces")
    parser.add_argument("--output", type=Path, required=True, help="folder for search.csv and search.md")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seeds", type=int, default=3, help="how often our search runs on each surface")
    parser.add_argument("--surfaces", nargs="+", choices=SURFACES, default=list(SURFACES))
    args = parser.parse_args(arguments)
    if args.jobs < 1 or args.seeds < 1:
        raise SystemExit("error: --jobs and --seeds must be at least 1")
    tasks = [(search, kind, args.seeds) for search in load_searches() for kind in args.surfaces]
    tasks.sort(key=lambda task: -len(task[0].ranges))  # the long ones first: the remaining time shrinks evenly
    rows = []
    with ProcessPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(compare, *task) for task in tasks]
        for future in tqdm(as_completed(futures), "surfaces", len(futures), unit="surface", smoothing=0):
            rows.append(future.result())
    rows.sort(key=lambda row: (list(SURFACES).index(row["surface"]), row["dataset"], row["setting"], row["method"]))
    args.output.mkdir(parents=True, exist_ok=True)
    with open(args.output / "search.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (args.output / "search.md").write_text(summary(rows, args.seeds))
    print(args.output / "search.md")


def load_searches(folder: Path = PUBLISHED) -> list[Search]:
    """The paper's 53 searches. ValueError if a value lies outside its range by more than rounding."""
    ranges: dict[tuple, dict[str, Range]] = {}
    for row in read(folder / "hyperparameters.csv"):
        log, integer = row["log"] == "true", row["integer"] == "true"
        searched = Range(low=float(row["low"]), high=float(row["high"]), log=log, integer=integer)
        ranges.setdefault(names_of(row), {})[row["parameter"]] = searched
    values: dict[tuple, list[dict[str, float]]] = {}
    for row in read(folder / "trials.csv"):
        trials = values.setdefault(names_of(row), [])
        if len(trials) == int(row["trial"]):
            trials.append({})
        trials[int(row["trial"])][row["parameter"]] = float(row["value"])
    scores, model = group(read(folder / "scores.csv")), group(read(folder / "model.csv"))
    searches = []
    for names in sorted(values):
        own = {name: ranges[names][name] for name in sorted(ranges[names])}
        points = np.array([to_unit(own, trial) for trial in values[names]])
        if points.min() < -1e-9 or points.max() > 1 + 1e-9:
            raise ValueError(f"{folder / 'trials.csv'}: {', '.join(names)}: a value lies outside of its range")
        of_parameter = {row["parameter"]: row for row in model[names]}
        searches.append(
            Search(
                *names,
                ranges=own,
                points=points.clip(0, 1),
                scores=np.array([float(row["validation_map_at_r"]) for row in scores[names]]),
                sems=np.array([float(row["sem"]) for row in scores[names]]),
                lengthscales=np.array([float(of_parameter[name]["lengthscale"]) for name in own]),
                signal=float(model[names][0]["signal"]),
                mean=float(model[names][0]["mean"]),
            )
        )
    return searches


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def names_of(row: Mapping[str, str]) -> tuple[str, str, str]:
    return row["dataset"], row["setting"], row["method"]


def group(rows: Sequence[dict[str, str]]) -> dict[tuple, list[dict[str, str]]]:
    """Rows by (dataset, setting, method), in their order."""
    grouped: dict[tuple, list[dict[str, str]]] = {}
    for row in rows:
        grouped.setdefault(names_of(row), []).append(row)
    return grouped


def to_unit(ranges: Mapping[str, Range], parameters: Mapping[str, float]) -> list[float]:
    """Hyperparameters as shares of their ranges, on the scale that is searched."""
    shares = []
    for name, searched in ranges.items():
        value, low, high = parameters[name], searched.low, searched.high
        if searched.log:
            value, low, high = np.log10([value, low, high])
        shares.append(float((value - low) / (high - low)))
    return shares


def whole_steps(ranges: Mapping[str, Range], points: np.ndarray) -> np.ndarray:
    """The points (n, hyperparameters) with whole numbers where the ranges ask for them, each as likely as any other."""
    points = points.copy()
    for k, searched in enumerate(ranges.values()):
        if searched.integer:
            steps = searched.high - searched.low
            points[:, k] = np.minimum(np.floor(points[:, k] * (steps + 1)), steps) / steps
    return points


def compare(search: Search, kind: str, seeds: int) -> dict[str, object]:
    """One row of the table: the regrets on one surface, as MAP@R and as shares of the surface's range."""
    surface = surface_of(search, kind)
    noise = surface.noise if kind == "noisy" else 0.0
    low, high = extremes(surface, search)
    outcomes = {
        "ours": our_searches(surface, search, kind, noise, seeds),
        "random": random_searches(surface, search, kind, noise),
        # With noise, the paper's choice is the one it made: the setting with its best score.
        "paper": chosen_so_far(surface(search.points)[None], search.scores[None] if noise else None),
    }
    high = max(high, *(outcome.values.max() for outcome in outcomes.values()))
    records = np.maximum.accumulate(search.scores)
    row: dict[str, object] = {
        "surface": kind, "dataset": search.dataset, "setting": search.setting, "method": search.method,
        "hyperparameters": len(search.ranges), "records": int((np.diff(records) > 0).sum()) + 1,
        "noise": rounded(surface.noise), "error": rounded(surface.error),
        "lowest": rounded(low), "highest": rounded(high),
    }  # fmt: skip
    for who, outcome in outcomes.items():
        regrets = high - outcome.chosen
        row[f"{who}_regret"] = rounded(regrets[:, -1].mean())
        if who != "paper":
            row[f"{who}_worst_regret"] = rounded(regrets[:, -1].max())
        row[f"{who}_relative_regret"] = rounded(regrets[:, -1].mean() / (high - low))
        row[f"{who}_arrived_at"] = arrived_at(regrets, CLOSE * (high - low))
    return row | {"ours_repeats": outcomes["ours"].repeats}


def rounded(value: float) -> float:
    return round(float(value), 6)


def surface_of(search: Search, kind: str) -> Surface:
    return papers_surface(search) if kind == "paper's" else refitted_surface(search)


def papers_surface(search: Search) -> Surface:
    """The Gaussian process behind the paper's own plots, from its lengthscales, scores and their standard errors."""
    noise = (search.sems / search.signal) ** 2
    return surface_from(search, search.lengthscales, noise, search.mean, search.signal)


def refitted_surface(search: Search) -> Surface:
    """A Gaussian process whose kernel and noise are those that make the 50 scores likeliest.

    The paper's process took each score's standard error over the folds as its noise, 0.020 in the median. But all
    settings are measured on the same four folds: the 13 pairs of trials that the paper made within 0.1 % of the same
    setting differ as under a noise of 0.004. So its posterior mean smooths real differences away.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    mean, spread = search.scores.mean(), search.scores.std()
    start = np.full(len(search.ranges), 0.4)
    # The noise is at least the rounding of training: 0.5 % of the spread of the scores.
    kernel = ConstantKernel(1.0, (0.05, 50)) * Matern(start, (0.05, 10), nu=2.5) + WhiteKernel(0.01, (2.5e-5, 1))
    seed = derive_seed("fidelity", *search.names, "surface") % 2**32
    process = GaussianProcessRegressor(kernel, n_restarts_optimizer=5, random_state=seed)
    # A hyperparameter without effect has an endless lengthscale: scikit-learn warns that it meets its bound.
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        process.fit(search.points, (search.scores - mean) / spread)
    fitted = process.kernel_
    signal = fitted.k1.k1.constant_value
    noise = np.full(len(search.scores), fitted.k2.noise_level / signal)
    return surface_from(search, np.atleast_1d(fitted.k1.k2.length_scale), noise, mean, signal**0.5 * spread)


def surface_from(
    search: Search, lengthscales: np.ndarray, noise: np.ndarray, mean: float, signal: float, best: int = 15
) -> Surface:
    """The posterior mean given a process; `noise` is the variance of each score in units of the signal's."""
    inverse = np.linalg.inv(matern(search.points, search.points, lengthscales) + np.diag(noise))
    weights = inverse @ (search.scores - mean)
    left_out = (weights / np.diag(inverse))[np.argsort(-search.scores)[:best]]
    typical = float(np.median(noise) ** 0.5 * signal)
    return Surface(search.points, lengthscales, weights, mean, typical, float(np.sqrt(np.mean(left_out**2))))


def matern(left: np.ndarray, right: np.ndarray, lengthscales: np.ndarray) -> np.ndarray:
    """The Matern-5/2 kernel, (n, d) and (m, d) -> (n, m)."""
    distance = 5**0.5 * np.sqrt((((left[:, None] - right) / lengthscales) ** 2).sum(axis=2))
    return (1 + distance + distance**2 / 3) * np.exp(-distance)


def extremes(surface: Surface, search: Search, candidates: int = 2**12, starts: int = 12) -> tuple[float, float]:
    """Lowest and highest value: of many points, the highest climbed from the best of them."""
    dimensions = len(search.ranges)
    seed = derive_seed("fidelity", *search.names, "extremes") % 2**32
    points = qmc.Sobol(dimensions, scramble=True, seed=seed).random(candidates)
    points = np.concatenate([whole_steps(search.ranges, points), search.points])
    values = surface(points)
    highest = values.max()
    if not any(searched.integer for searched in search.ranges.values()):
        for start in points[np.argsort(-values)[:starts]]:
            climbed = minimize(lambda x: -surface(x[None])[0], start, bounds=[(0, 1)] * dimensions, method="L-BFGS-B")
            highest = max(highest, -climbed.fun)
    return float(values.min()), float(highest)


def our_searches(surface: Surface, search: Search, kind: str, noise: float, seeds: int) -> Outcome:
    """The search of dml/search.py with as many trials as the paper's, once for each seed."""
    values, seen = np.empty((2, seeds, len(search.scores)))
    repeats = 0
    for seed in range(seeds):
        points = np.empty((0, len(search.ranges)))
        errors = generator("fidelity", *search.names, kind, "ours", seed).normal(0, noise, len(search.scores))
        history: list[Tried] = []
        for number in range(len(search.scores)):
            parameters = propose(
                search.ranges, history, number, sobol_trials=SOBOL_TRIALS, per_round=1, seed=seed,
                names=(*search.names, kind),
            )  # fmt: skip
            point = np.array([to_unit(search.ranges, parameters)])
            repeats += bool((np.abs(points - point) < REPEAT).all(axis=1).any())
            points = np.concatenate([points, point])
            values[seed, number] = surface(point)[0]
            seen[seed, number] = values[seed, number] + errors[number]
            history.append(Tried(number, parameters, seen[seed, number], None, [], None))
    return replace(chosen_so_far(values, seen), repeats=repeats / seeds)


def random_searches(surface: Surface, search: Search, kind: str, noise: float) -> Outcome:
    rng = generator("fidelity", *search.names, kind, "random")
    trials = len(search.scores)
    points = whole_steps(search.ranges, rng.random((RANDOM_SEARCHES * trials, len(search.ranges))))
    values = surface(points).reshape(RANDOM_SEARCHES, trials)
    return chosen_so_far(values, values + rng.normal(0, noise, values.shape))


def chosen_so_far(values: np.ndarray, seen: np.ndarray | None = None) -> Outcome:
    """The value of the trial whose score, as seen, is the best so far; the earliest of equals."""
    seen = values if seen is None else seen
    trials = np.arange(values.shape[1])
    records = np.maximum.accumulate(seen, axis=1)
    is_record = np.concatenate([np.ones((len(seen), 1), bool), np.diff(records, axis=1) > 0], axis=1)
    best = np.maximum.accumulate(np.where(is_record, trials, 0), axis=1)
    return Outcome(values, np.take_along_axis(values, best, axis=1))


def arrived_at(regrets: np.ndarray, tolerance: float) -> int | None:
    """After how many trials half of the searches are, and stay, within the tolerance; None if they never are."""
    inside = np.minimum.accumulate((regrets <= tolerance)[:, ::-1], axis=1)[:, ::-1].mean(axis=0) >= 0.5
    return int(inside.argmax()) + 1 if inside.any() else None


def summary(rows: Sequence[Mapping[str, object]], seeds: int) -> str:
    """The report in Markdown: what was asked, one table over all surfaces, one row for each surface."""
    kinds = [kind for kind in SURFACES if any(row["surface"] == kind for row in rows)]
    lines = [
        "# Does the search find the best setting?",
        "",
        f"Our search ({seeds} seeds), random search ({RANDOM_SEARCHES} repetitions) and the paper's own settings, 50 "
        "trials each, on the response surfaces of the paper's searches. Regret: how far the chosen setting lies below "
        "the surface's maximum, in points of MAP@R (percent). Relative: as a share of the surface's range. Arrived: "
        f"within {CLOSE:.0%} of the range. Regrets of ours and of random search are means over their seeds.",
        "",
        *(f"- **{kind}**: {SURFACES[kind]}." for kind in kinds),
        "",
        "The surfaces were fitted to the paper's 50 settings, so their maxima tend to lie near the paper's best; far "
        "from all settings they are guesses. Error: root mean square by which a surface misses the 15 best scores, "
        "each left out of the fit in turn: smaller differences mean nothing.",
        "",
        table(
            ["surfaces", "n", "median: ours", "random", "paper", "worst: ours", "random", "paper"]
            + ["ours no worse than: random", "paper", "repeats of ours"],
            [summary_row(kind, [row for row in rows if row["surface"] == kind]) for kind in kinds],
        ),
        "",
        f"No worse: the regret is higher by at most {percent(TIE)}. Repeats: how many of 50 trials, in the mean, try a "
        f"setting again (nearer than {REPEAT:.1%} of every range).",
        "",
        "How many surfaces each search arrived on, and after how many trials in the median of those:",
        "",
        table(["surfaces", "ours", "random", "paper"], [arrival_row(kind, rows) for kind in kinds]),
    ]
    for kind in kinds:
        lines += ["", f"## Each surface: {kind}", "", surface_table([row for row in rows if row["surface"] == kind])]
    return "\n".join(lines) + "\n"


def summary_row(kind: str, rows: Sequence[Mapping[str, object]]) -> list[str]:
    regret = {who: np.array([row[f"{who}_regret"] for row in rows]) for who in ("ours", "random", "paper")}
    return [
        kind,
        str(len(rows)),
        *(percent(np.median(values)) for values in regret.values()),
        *(percent(values.max()) for values in regret.values()),
        *(str(int((regret["ours"] <= regret[who] + TIE).sum())) for who in ("random", "paper")),
        f"{np.mean([row['ours_repeats'] for row in rows]):.1f}",
    ]


def arrival_row(kind: str, rows: Sequence[Mapping[str, object]]) -> list[str]:
    cells = [kind]
    for who in ("ours", "random", "paper"):
        arrived = [row[f"{who}_arrived_at"] for row in rows if row["surface"] == kind]
        known = [trials for trials in arrived if trials is not None]
        cells.append(f"{len(known)} of {len(arrived)}" + (f" ({np.median(known):.0f})" if known else ""))
    return cells


def surface_table(rows: Sequence[Mapping[str, object]]) -> str:
    heads = ["data set", "setting", "method", "hyper-parameters", "maximum", "error", "ours", "worst seed", "random"]
    cells = [
        [
            str(row["dataset"]), str(row["setting"]), str(row["method"]), str(row["hyperparameters"]),
            percent(row["highest"]), percent(row["error"]), percent(row["ours_regret"]),
            percent(row["ours_worst_regret"]), percent(row["random_regret"]), percent(row["paper_regret"]),
            *(f"{row[f'{who}_relative_regret']:.1%}" for who in ("ours", "random", "paper")),
            *(str(row[f"{who}_arrived_at"] or "-") for who in ("ours", "random", "paper")),
        ]
        for row in rows
    ]  # fmt: skip
    relative = ["relative: ours", "random", "paper", "arrived: ours", "random", "paper"]
    return table([*heads, "paper", *relative], cells)


def percent(share: object) -> str:
    return f"{100 * float(share):.2f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
