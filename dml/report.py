"""One HTML page with everything a study found: nothing is loaded from elsewhere, and it prints."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from dml.page import laid_out, template
from dml.results import RANKING, Results, incomplete_methods, per_seed
from dml.stats import paired
from dml.tables import accuracy
from dml.tabulation import listed, number, percent, plain, signed

PROVENANCE = {
    "commit": "Commit of the code",
    "code": "Fingerprint of the training code",
    "python": "Python",
    "torch": "PyTorch",
    "versions": "Libraries",
    "device": "Hardware",
    "threads": "Threads",
    "weights": "Weights of the trunk (SHA-256)",
    "measuring_code": "Fingerprint of the measuring code",
}

BASELINES = ("contrastive", "triplet")
"""What papers compare their losses with."""


def render(
    results: Results,
    tables: Mapping[str, tuple[str, str, pd.DataFrame]],
    figures: Mapping[str, tuple[str, str, str]],
    gallery: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The report as HTML.

    `tables`: name -> title, caption, presented cells (see `dml.tabulation`); `figures`: name -> title, caption, SVG.
    `gallery`: one entry for each data set, {dataset, method, rows: [{query, neighbours: [picture, ...]}]}; a picture is
    {png: base64 text, class}, a neighbour also has right: bool. Tables and figures that the page has no place for
    follow at its end, so that a new one is seen at once.
    """
    values = accuracy.build(results)
    return template("report").render(
        study=results.study,
        facts=_facts(results),
        summary=[_sentence(results, values, dataset) for dataset in results.datasets],
        single_seed=results.seeds == 1,
        tables={
            name: {"title": title, "caption": caption, "blocks": laid_out(cells)}
            for name, (title, caption, cells) in tables.items()
        },
        figures={
            name: {"title": title, "caption": caption, "svg": inline_svg(svg, f"figure-{name}", title)}
            for name, (title, caption, svg) in figures.items()
        },
        gallery=[
            part | {"title": results.datasets[part["dataset"]], "method": results.methods[part["method"]]}
            for part in gallery or []
            if part["rows"]
        ],
        protocol=_protocol(results),
        methods=_methods(results),
        datasets=results.study["datasets"],
        provenance=_provenance(results),
    )


def inline_svg(svg: str, prefix: str, title: str) -> Markup:
    """An SVG file as a part of a page: it scales, its ids and styles do not meet those of other figures."""
    drawing = svg[svg.index("<svg") :]
    width = float(re.search(r'width="([\d.]+)pt"', drawing)[1]) * 4 / 3
    drawing = re.sub(r' (width|height)="[\d.]+pt"', "", drawing, count=2)
    drawing = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', drawing)
    drawing = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', drawing)
    drawing = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", drawing)
    drawing = re.sub(r"(<style[^>]*>)\s*\*", rf"\1#{prefix} *", drawing)
    root = Markup('<svg id="{}" role="img" aria-label="{}" style="max-width:{:.0f}px"').format(prefix, title, width)
    return Markup(drawing.replace("<svg", root, 1).strip())


def _facts(results: Results) -> list[str]:
    counts = [(len(results.datasets), "data set"), (len(results.methods), "method"), (results.seeds, "seed")]
    return [f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts]


def _sentence(results: Results, table: pd.DataFrame, dataset: str) -> Markup:
    """Which method is best on a data set, by how much, and which others might be."""
    own = table[table["dataset"] == dataset]
    ranked = own[(own["embedding"] == "separated") & (own["metric"] == "map_at_r")]
    failed = [results.methods[name] for name in own.loc[own["failure"] != "", "method"]]
    sentence = Markup("<strong>{}.</strong> ").format(results.datasets[dataset])
    sentence += _verdict(results, dataset, ranked) if len(ranked) else Markup("No method has a result.")
    return sentence + Markup(" Without a result: {}." if failed else "").format(listed(failed))


def _verdict(results: Results, dataset: str, ranked: pd.DataFrame) -> Markup:
    partial = incomplete_methods(results, dataset)
    complete = ranked[~ranked["method"].isin(list(partial))]
    among = " of the methods with all seeds" if partial and len(complete) else ""
    return _ranking(results, dataset, complete if len(complete) else ranked, among) + _unfinished(results, partial)


def _ranking(results: Results, dataset: str, ranked: pd.DataFrame, among: str = "") -> Markup:
    trunk = "pretrained" if results.study["protocol"].get("weights") else "untrained"
    trained = ranked[ranked["method"].isin(list(results.trained_methods))]
    untrained = ranked[~ranked["method"].isin(list(results.trained_methods))]
    best = ranked.iloc[0]
    if best["method"] not in results.trained_methods:
        verdict = Markup("No training helps: the {} trunk ({}) has the highest separated MAP@R{}, {}").format(
            trunk, _strong(results, best), among, _estimate(results, best)
        )
        if len(trained):
            second = trained.iloc[0]
            lead = percent(best["mean"] - second["mean"])
            verdict += Markup(", {} points above the best trained method, {}").format(lead, _strong(results, second))
    else:
        verdict = Markup("{} has the highest separated MAP@R{}, {}").format(
            _strong(results, best), among, _estimate(results, best)
        )
        if len(untrained):
            gain = percent(best["mean"] - untrained.iloc[0]["mean"])
            verdict += Markup(", {} points above the {} trunk ({}%)").format(
                gain, trunk, percent(untrained.iloc[0]["mean"])
            )
    return verdict + "." + _ties(results, ranked.iloc[1:]) + _gains(results, dataset, best["method"])


def _gains(results: Results, dataset: str, best: str) -> Markup:
    """How far the best method is above the two losses that papers compare with, in pairs over seeds."""
    values = per_seed(results, dataset, *RANKING)
    gains = []
    for base in BASELINES:
        found = paired(values[best], values[base]) if base in values and base != best else {"n": 0}
        if found["n"]:
            gains.append(f"{signed(found['difference'], found['half_width'])} over {results.methods[base]}")
    if not gains:
        return Markup("")
    pairs = "in pairs over seeds, 95% interval" if results.seeds > 1 else "of one seed"
    return Markup(" Its gain in points: {} ({}).").format(listed(gains), pairs)


def _ties(results: Results, others: pd.DataFrame) -> Markup:
    if others.empty:
        return Markup("")
    if others["tied"].isna().all():
        return Markup(" With a single seed there is neither an interval nor a test: the order may be chance.")
    tied = [results.methods[name] for name in others.loc[others["tied"].fillna(False), "method"]]
    if not tied:
        tested = " that could be tested" if others["tied"].isna().any() else ""
        return Markup(" Every other method{} is significantly below it.").format(tested)
    return Markup(" Statistically tied with it: {}.").format(listed(tied))


def _unfinished(results: Results, partial: Mapping[str, int]) -> Markup:
    if not partial:
        return Markup("")
    names = [f"{results.methods[name]} ({count} of {results.seeds} seeds)" for name, count in partial.items()]
    return Markup(" With failed seeds: {}.").format(listed(names))


def _strong(results: Results, row: pd.Series) -> Markup:
    return Markup("<strong>{}</strong>").format(results.methods[row["method"]])


def _estimate(results: Results, row: pd.Series) -> str:
    if row["n"] == 1 and results.seeds > 1 and row["method"] not in results.trained_methods:
        return f"{percent(row['mean'])}% (one evaluation, the same with every seed)"
    if row["n"] == 1:
        return f"{percent(row['mean'])}% (one seed)"
    return f"{percent(row['mean'], row['half_width'])}% (mean of {row['n']} seeds, 95% interval)"


def _protocol(results: Results) -> list[tuple[str, str, str]]:
    meaning = results.study.get("protocol_help", {})
    return [(key, plain(value), meaning.get(key) or "") for key, value in results.study["protocol"].items()]


def _methods(results: Results) -> list[dict[str, Any]]:
    return [
        entry
        | {
            "title": results.methods[entry["name"]],
            "searched": [f"{name}: {_range(searched)}" for name, searched in entry.get("ranges", {}).items()],
            "constant": [f"{name}: {plain(value)}" for name, value in entry.get("fixed", {}).items()],
        }
        for entry in results.study["methods"]
    ]


def _range(searched: Mapping[str, Any]) -> str:
    if searched.get("choices") is not None:
        return plain(searched["choices"])
    ends = f"{number(searched['low'])} to {number(searched['high'])}"
    return ends + (", log" if searched.get("log") else "") + (", whole numbers" if searched.get("integer") else "")


def _provenance(results: Results) -> list[tuple[str, str]]:
    """What made the final runs; several values of one kind are counted."""
    runs = results.runs
    facts = [(title, _counted(runs[column])) for column, title in PROVENANCE.items()]
    for dataset, title in results.datasets.items():
        own = runs[runs["dataset"] == dataset]
        facts.append((f"Fingerprint of {title}, trainval", _counted(own["data"])))
        facts.append((f"Fingerprint of {title}, test", _counted(own["test"])))
    facts.append(("Went on after an interruption", f"{(runs['resumed'] > 0).sum()} of {len(runs)} trainings"))
    return facts


def _counted(values: pd.Series) -> str:
    counts = values.dropna().astype(str).value_counts().sort_index()
    if len(counts) == 1:
        return counts.index[0] or "none"
    shares = [f"{value or 'none'} ({count} of {counts.sum()} trainings)" for value, count in counts.items()]
    return ", ".join(shares) or "none"
