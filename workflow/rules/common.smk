import hashlib
import json
import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path

from dml import plugins, protocol
from dml.downloading import mirrors_from
from dml.published import check_counterpart, given_hyperparameters, origin_of
from dml.record import embedding_code, evaluation_code, space_code
from dml.settings import Settings
from dml.study import load_study, own_images, own_name, study_path

try:
    SETTINGS = Settings.check(config, "config.yaml")
    SETTINGS.check_copies()
    STUDY_FILE = study_path(SETTINGS.study, Path(workflow.basedir) / "workflow" / "studies")
    # relative: a project that was moved is still the same project
    STUDY_FILE = Path(os.path.relpath(STUDY_FILE))
    STUDY = load_study(STUDY_FILE, SETTINGS.images)
    PUBLISHED = Path(os.path.relpath(Path(workflow.basedir) / "workflow" / "published"))
    check_counterpart(STUDY, STUDY_FILE, PUBLISHED)
    # (data set, method) -> values where a study takes its hyperparameters from elsewhere, None where it searches
    GIVEN = given_hyperparameters(STUDY, STUDY_FILE, PUBLISHED)
    if workflow.is_main_process:
        for dataset in STUDY.datasets:
            dataset.refuse_namesake(Path(SETTINGS.data, dataset.name, "images.csv"))
            dataset.check_classes(STUDY.protocol.folds)
        STUDY.check_pml(str(STUDY_FILE))
except ValueError as error:
    sys.exit(f"error: {error}")

# Images of one's own make results of their own: the same study on another folder overwrites nothing.
NAME = "_".join([STUDY_FILE.stem, *(own_name(path) for path in own_images(SETTINGS.images))])
DATASETS = [dataset.name for dataset in STUDY.datasets]
METHODS = [method.name for method in STUDY.methods]
# A run is a method, or one on a level of a factor; their files lie side by side, and the wildcard of both is `method`.
RUN_NAMES = list(STUDY.runs)
RUNS = [(dataset, name) for dataset in DATASETS for name in RUN_NAMES]
PROTOCOL = STUDY.protocol
PER_ROUND = PROTOCOL.trials_per_round
# All weight files that some run starts from.
WEIGHTS = {p.weights.file: p.weights for p in map(STUDY.protocol_of, RUN_NAMES) if p.weights}

# Where things come from and run is the machine's business: as environment, not as parameters, so that no change of it
# makes anything again.
os.environ["DML_MIRROR"] = ",".join(mirrors_from(SETTINGS.mirror, os.environ))
os.environ["DML_COPIES"] = json.dumps(
    {name: os.path.abspath(os.path.expanduser(path)) for name, path in (SETTINGS.copies or {}).items()}
)
os.environ["DML_DEVICE"] = SETTINGS.device
os.environ["DML_TRAININGS_PER_GPU"] = str(SETTINGS.trainings_per_gpu)
os.environ["DML_STUDY"] = str(STUDY_FILE)


envvars:
    "DML_MIRROR",
    "DML_COPIES",
    "DML_DEVICE",
    "DML_TRAININGS_PER_GPU",
    "DML_STUDY",


DATA = SETTINGS.data
SIDE = f"{DATA}/{{dataset}}/side{{side}}"
OWN_SIDE = f"{DATA}/{{dataset}}/side{PROTOCOL.resize}"
RESULTS = f"results/{NAME}"
RUN = f"{RESULTS}/{{dataset}}/{{method}}"
REPORT = f"reports/{NAME}"
LOGS = f"logs/{NAME}"

# One job trains every fold, one after the other; or each fold has a job, whose number is a wildcard.
FOLDS_OF_A_JOB = ["{fold}"] if SETTINGS.folds_per_job == 1 else range(PROTOCOL.folds)
OF_THE_FOLD = "_{fold}" if SETTINGS.folds_per_job == 1 else ""

# What a job that trains or embeds asks for; it counts where GPUs are shared out: `--resources gpu=N`, or on a cluster.
GPUS = 0 if SETTINGS.device == "cpu" else 1

PACKAGE = Path(plugins.__file__).parent


def code_of(*names):
    """A hash of modules that a cheap stage runs through: any real change of them makes its results again."""
    return plugins.code_hash(PACKAGE / f"{name}.py" for name in names)


REPORT_CODE = [
    *(plugins.fingerprint(kind, name) for kind in ("tables", "figures") for name in plugins.names(kind)),
    code_of(
        "differences", "embedding_space", "gallery", "page", "plotting", "report", "results", "stats", "tabulation"
    ),
    *(
        hashlib.sha256((PACKAGE / f).read_bytes()).hexdigest()[:16]
        for f in ("page.html.j2", "page.js", "report.html.j2")
    ),
]

ENVIRONMENT = f"{workflow.basedir}/envs/environment.yaml"

# Jobs find the package wherever snakemake was called, and run with its Python unless they have an environment of theirs.
PREFIX = f"export PYTHONPATH={shlex.quote(str(workflow.basedir))}"
if not workflow.deployment_settings.deployment_method:
    PREFIX += f' PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
shell.prefix(f"{PREFIX}; ")


wildcard_constraints:
    dataset="[a-z0-9_]+",
    method="[a-z0-9_]+(-[a-z0-9_]+)?",
    weights="|".join(map(re.escape, WEIGHTS)) or "none",
    side=r"\d+",
    trial=r"\d+",
    seed=r"\d+",
    fold=r"\d+",
    half="trainval|test",


def plugin(wildcards):
    """The file of dml/datasets/ that reads a data set."""
    return STUDY.dataset(wildcards.dataset).plugin


def archives(wildcards):
    """Where a data set's archives are kept: two data sets of the same images share them."""
    return f"{DATA}/{plugins.literal('datasets', plugin(wildcards), 'ARCHIVES_OF', wildcards.dataset)}/archives"


def own_source(wildcards):
    """The folder or zip of one's own images, where the data set is one."""
    dataset = STUDY.dataset(wildcards.dataset)
    return str(dataset.path()) if dataset.folder else []


def by_method(function):
    """A function of a run as one of wildcards, called once a run: thousands of jobs ask for its value."""
    once = cache(function)
    return lambda wildcards: once(wildcards.method)


@by_method
def weights_file(name):
    """The trunk's weight file, where the protocol of a run names one."""
    weights = STUDY.protocol_of(name).weights
    return [f"{DATA}/weights/{weights.file}"] if weights else []


def teachers(seed):
    """A function that gives the models that a run learns from, if it does: those of a seed of its teacher."""

    def models(wildcards):
        teacher = STUDY.teacher_of(wildcards.method)
        if teacher is None:
            return []
        folder = f"{RUN}/seeds/{seed}".format(**dict(wildcards) | {"method": teacher})
        return [f"{folder}/fold{fold}/model.safetensors".format(**dict(wildcards)) for fold in FOLDS_OF_A_JOB]

    return models


def packed(half, *endings):
    """A function that gives the files of a half of the data set, packed to the size that a run wants."""

    def files(wildcards):
        side = STUDY.protocol_of(wildcards.method).resize
        return multiext(f"{SIDE.format(dataset=wildcards.dataset, side=side)}/{half}", *endings)

    return files


@by_method
def what_is_trained(method):
    """What a training depends on besides its input files: a change of it retrains, a comment does not."""
    protocol = STUDY.protocol_of(method)
    return {
        "protocol": protocol.training_values(),
        "method": STUDY.method(method).fingerprint(),
        "trunk": protocol.trunk_code(),
    }


def measured_by(code):
    """A function that gives the code that leads from the model of a run to its embeddings, or to what is measured."""
    return by_method(lambda name: [STUDY.protocol_of(name).trunk_code(), code])


@by_method
def setting_of(method):
    """What a trial of a method is besides the values that are searched."""
    return STUDY.method(method).trial({}).model_dump()


@by_method
def ranges_of(method):
    """What is searched of a method, and where."""
    return STUDY.method(method).searched()


def folds_of(files):
    """Which folds a job trains. Taken from its outputs, so that it is no parameter whose change retrains anything."""
    return [re.findall(r"\bfold(\d+)", file)[-1] for file in files]


def fold_records(wildcards, first, end):
    """The records of all folds of the trials first..end-1."""
    run = RUN.format(dataset=wildcards.dataset, method=wildcards.method)
    return [f"{run}/search/{trial}/fold{k}.json" for trial in range(first, end) for k in range(PROTOCOL.folds)]


def history_of(wildcards, trial):
    run = RUN.format(dataset=wildcards.dataset, method=wildcards.method)
    return f"{run}/search/{trial}/history.json"


def first_of_round(trial):
    return trial - trial % PER_ROUND


def rounds_before(wildcards):
    """What a proposal sees: the history that the round before started from, and that round's trials."""
    first = first_of_round(int(wildcards.trial))
    if first == 0:
        return {"history": [], "folds": []}
    before = first - PER_ROUND
    return {
        "history": history_of(wildcards, before),
        "folds": fold_records(wildcards, before, first),
    }


def last_round(wildcards):
    trials = STUDY.trials(wildcards.method)
    first = first_of_round(trials - 1)
    run = RUN.format(dataset=wildcards.dataset, method=wildcards.method)
    return {
        "settings": [f"{run}/search/{trial}/trial.yaml" for trial in range(trials)],
        "history": history_of(wildcards, first),
        "folds": fold_records(wildcards, first, trials),
    }


def all_of_the_search(wildcards):
    """Every file of every search."""
    files = []
    for dataset, method in RUNS:
        run = RUN.format(dataset=dataset, method=method)
        of_a_trial = ["trial.yaml", "history.json", *(f"fold{k}.json" for k in range(PROTOCOL.folds))]
        files += [f"{run}/search/{trial}/{file}" for trial in range(STUDY.trials(method)) for file in of_a_trial]
        files += [f"{run}/best.yaml", f"{run}/best_trial.yaml", f"{run}/history.json"]
    return files


def given_values(wildcards):
    """The hyperparameters of a method where nothing is searched, as JSON."""
    return json.dumps((GIVEN or {}).get((wildcards.dataset, wildcards.method)))


def of_all_seeds(file):
    """A file of every seed of every run."""
    folders = [RUN.format(dataset=dataset, method=method) for dataset, method in RUNS]
    return [f"{folder}/seeds/{seed}/{file}" for folder in folders for seed in range(PROTOCOL.seeds)]


def published_files():
    """The files of the paper whose numbers stand beside the study's; the last two are not of every paper."""
    folder = PUBLISHED / STUDY.published.paper if STUDY.published else None
    names = ("paper.yaml", "results.csv", "hyperparameters.csv", "correlations.csv")
    return [folder / name for name in names if (folder / name).exists()] if folder else []


def all_of_the_finals(wildcards):
    """Every file of every final run."""
    of_a_fold = ["model.safetensors", "record.json", "embeddings.npy", "embeddings.json"]
    of_a_fold += [f"{view}.npy" for view in STUDY.views()] + ["checkpoints.safetensors"] * STUDY.checkpoints
    of_a_seed = ["metrics.json", "queries.npz"]
    of_a_seed += ["space.json"] * STUDY.embedding_space + ["selection.json"] * STUDY.checkpoints
    files = [f"fold{k}/{file}" for k in range(PROTOCOL.folds) for file in of_a_fold] + of_a_seed
    return [path for file in files for path in of_all_seeds(file)]
