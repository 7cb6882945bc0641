"""The same models, their images compared in other ways."""

from matplotlib.figure import Figure

from dml.figures.factors import draw_rows, height_of_rows
from dml.plotting import HEADING, empty_figure, styled
from dml.results import Results
from dml.tables import retrieval

NEEDS = "retrieval"
TITLE = "MAP@R by other ways of retrieval"
CAPTION = (
    "Separated MAP@R of the same models, mean over seeds with its 95% Student-t interval; without one: a single seed, "
    "or loaded weights that do not train. Black, with a line down its group: embeddings compared as everywhere else. "
    "Methods are sorted by that. The axes do not begin at 0."
)
METRIC = "map_at_r"


@styled
def draw(results: Results) -> Figure:
    """One panel for each data set, a group of rows for each method; two panels side by side."""
    table = retrieval.measured(results)
    of_figure = (table["metric"] == METRIC) & (table["embedding"] == "separated")
    table = table[of_figure | (table["failure"] != "")]
    if table["mean"].isna().all():
        return empty_figure("No method has a result.")
    titles = {"": retrieval.PLAIN} | {name: way["title"] for name, way in results.study["retrieval"].items()}
    table = table.assign(label=table["retrieval"].map(titles), first=table["retrieval"] == "")
    shown = list(dict.fromkeys(table["dataset"]))
    across = min(2, len(shown))
    down = -(-len(shown) // across)
    height = max(height_of_rows(own) for _, own in table.groupby("dataset"))
    figure = Figure(figsize=(7.2 if across == 1 else 10.4, height * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flat
    for place, dataset in zip(axes, shown, strict=False):
        place.set_title(results.datasets[dataset], **HEADING)
        draw_rows(place, results, table[table["dataset"] == dataset])
    for place in axes[len(shown) :]:
        place.set_visible(False)
    return figure
