"""What less precise products and convolutions save, and what they do to MAP@R."""

import io
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from matplotlib.figure import Figure

from dml import plugins
from dml.images import PackedImages, pack
from dml.plotting import PALETTE
from dml.splits import folds, half_of
from dml.study import Study, load_study
from dml.training import train

TITLE = "Precision"
ABOUT = """The same trainings of the demo study (fold 0, four seeds of two methods) with `precision: float32`, the
protocol's, and with the others that the device knows: seconds of a training with its validations, and the best
validation MAP@R. Pairs of trainings have the same seed, so that weights, batches and crops are the same; the spread of
their differences says whether the effect of precision is more than what any rounding does to a training."""

STUDY = Path(__file__).parents[2] / "workflow" / "studies" / "demo.yaml"
PRECISIONS = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "tf32", "bfloat16")}
SEEDS = range(4)
SETTINGS = {
    "normalized_softmax": {"temperature": 0.05, "loss_lr": 0.01},
    "multi_similarity": {"alpha": 2.0, "beta": 50.0, "base": 0.5},
}


def measure(repetitions: int) -> pd.DataFrame:
    """One row a method and precision; what is repeated are the seeds, so `repetitions` changes nothing."""
    study = load_study(STUDY)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with TemporaryDirectory() as folder:
        trainval = pack_trainval(study, Path(folder))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return pd.DataFrame(rows(study, trainval, device))
        finally:
            torch.set_num_threads(threads)


def pack_trainval(study: Study, folder: Path) -> PackedImages:
    """The demo's trainval half, rendered and packed."""
    archives = folder / "archives"
    archives.mkdir()
    listed = plugins.load("datasets", "glyphs").prepare(archives)
    positions, labels = half_of(listed, "trainval")
    pack([listed[i] for i in positions], labels, study.protocol.resize, folder / "trainval", False, progress=False)
    return PackedImages.open(folder / "trainval")


def rows(study: Study, trainval: PackedImages, device: str) -> Iterator[dict]:
    """Seconds and MAP@R (percent) of each precision, and the differences to float32 of the same seed."""
    fold = folds(int(trainval.labels.max()) + 1, study.protocol.folds)[0]
    for method, parameters in SETTINGS.items():
        trial = study.method(method).trial(parameters)
        scores, seconds = {}, {}
        for precision in PRECISIONS[device]:
            protocol = study.protocol.model_copy(update={"precision": precision})
            with redirect_stderr(io.StringIO()):  # the progress of each
                outcomes = [train(trial, protocol, trainval, fold, seed, device=device) for seed in SEEDS]
            scores[precision] = pd.Series([100 * outcome.score for outcome in outcomes])
            seconds[precision] = sum(o.seconds for o in outcomes) / sum(o.steps for o in outcomes)
            apart = scores[precision] - scores["float32"]
            yield {
                "method": method,
                "device": device,
                "precision": precision,
                "seconds_a_step": seconds[precision],
                "times_as_fast": seconds["float32"] / seconds[precision],
                "map_at_r": scores[precision].mean(),
                "difference": apart.mean(),
                "sd_of_difference": apart.std(),
                "seeds": len(SEEDS),
            }


def draw(table: pd.DataFrame) -> Figure:
    """The difference in MAP@R beside the time saved, with its standard deviation."""
    others = table[table["precision"] != "float32"].iloc[::-1]
    names = [f"{precision}, {method}" for precision, method in zip(others["precision"], others["method"], strict=True)]
    figure = Figure(figsize=(8, 0.9 + 0.34 * len(others)), layout="constrained")
    speed, effect = figure.subplots(1, 2, sharey=True)
    speed.barh(names, others["times_as_fast"], color=PALETTE[0])
    speed.axvline(1, color="0.5", linewidth=0.8)
    speed.set_xlabel("times as fast as float32")
    effect.errorbar(others["difference"], names, xerr=others["sd_of_difference"], fmt="o", color=PALETTE[0], capsize=3)
    effect.axvline(0, color="0.5", linewidth=0.8)
    effect.set_xlabel("MAP@R less that of float32, percentage points")
    return figure
