"""The SLURM profile on a real SLURM: a study from end to end, and jobs that are ended in every way a cluster knows.

Each study ends with the numbers of one that ran without a cluster and was left alone. The cluster is that of
`slurm_cluster.py`, which `.ci/run` starts; without it all is skipped, and no other cluster is ever touched.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import slurm_cluster
import yaml
from holding import held, hold_at, let_go, wait_until_held
from project import Project

on_the_cluster = pytest.mark.skipif(
    not (os.environ.get("DML_TEST_CLUSTER") and slurm_cluster.answers()),
    reason="no test cluster: as root `python tests/slurm_cluster.py install`, `... start`, and set DML_TEST_CLUSTER=1",
)
STUDY = "tests/studies/cluster.yaml"
RESULTS = Path("results/cluster")
METRICS = RESULTS / "metrics.csv"
SEED = "cluster/glyphs/contrastive/seeds/0"  # below results/ and logs/: the run that is disturbed
PROFILE = Path("workflow/profiles/slurm")
SNAKEMAKE = Path(sys.executable).parent / "snakemake"
PATIENCE = 300  # seconds, for each step


class Run:
    """A copy of a project that is run on the cluster; `profile` is what a user writes into the profile's file."""

    processes = []  # of all runs

    def __init__(self, project, folder, profile, hold=False):
        self.folder = folder
        shutil.copytree(project.folder, folder)
        file = folder / PROFILE / "config.yaml"
        settings = yaml.safe_load(file.read_text())
        # fewer submissions take less time; what is in one group must agree on the kind of GPU
        settings["groups"] |= {"embed": "finals", "measure": "finals"}
        for rule in gpu_rules(settings):
            rule.pop("gpu_model", None)
        profile(settings)
        file.write_text(yaml.safe_dump(settings))
        self.log = folder / "run.log"
        if hold:
            hold_at(folder, 2)

    def start(self, first_wait=1):
        """Snakemake waits so many seconds before it asks for the jobs, then 10 more each time until one has ended."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE", "DML_"))}
        command = [SNAKEMAKE, "--workflow-profile", PROFILE, METRICS]
        command += ["--slurm-init-seconds-before-status-checks", str(first_wait)]
        command += ["--config", f"study={STUDY}"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self.processes.append(self.process)
        return self

    def finish(self):
        code = self.process.wait(PATIENCE)
        assert code == 0, self.log.read_text()[-6000:]
        return self

    def kill(self):
        """As `kill -9` of snakemake, and then the folder unlocked."""
        self.process.kill()
        self.process.wait()
        arguments = [SNAKEMAKE, "--unlock", "--config", f"study={STUDY}"]
        subprocess.run(arguments, cwd=self.folder, check=True, capture_output=True)

    def is_submitted(self):
        return "SLURM run ID" in self.log.read_text()

    def name(self):
        """What SLURM calls the jobs of this run."""
        return re.search(r"SLURM run ID: (\S+)", self.log.read_text())[1]

    def jobs(self, name=None):
        """What SLURM knows of the jobs so far, in the order in which they were submitted; or of those of that name."""
        name = name or self.name()
        ids = slurm("squeue", "--noheader", "--states=all", "--format=%i", "--sort=i", "--name", name).split()
        texts = [slurm("scontrol", "--oneliner", "show", "job", id) for id in ids]
        return [dict(re.findall(r"(\w+)=(\S*)", text)) for text in texts]

    def states(self, name=None):
        return [job["JobState"] for job in self.jobs(name)]

    def held(self):
        """Wait for the training that stands still; gives its job."""
        wait_until_held(self.folder, self.process, PATIENCE)
        (job,) = [job for job in self.jobs() if job["JobState"] == "RUNNING"]
        return job

    def metrics(self):
        return (self.folder / METRICS).read_bytes()

    def went_on(self):
        """Whether the disturbed training began where it was ended; by then it may have come to its own end."""
        log = (self.folder / "logs" / SEED / "train.log").read_text()
        return "goes on from step" in log or "was trained to its end" in log


def slurm(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def wait_for(condition, run=None):
    end = time.monotonic() + PATIENCE
    while not condition():
        alive = run is None or run.process.poll() is None
        assert alive and time.monotonic() < end, run and run.log.read_text()[-6000:]
        time.sleep(0.1)


def gpu_rules(settings):
    return [settings["set-resources"][rule] for rule in ("train_trial", "train_final", "embed")]


def filled_in(settings):
    """Every setting that a cluster may ask for; and several trials in a submission."""
    settings["default-resources"] |= {"slurm_partition": "cpu", "slurm_account": "vision", "slurm_extra": "--nice=7"}
    for rule in gpu_rules(settings):
        rule |= {"slurm_partition": "gpu", "gpu_model": "pretend"}
    settings["precommand"] = "hostname >> precommands"
    settings["groups"] |= {"embed": "embeddings", "measure": "measures"}
    settings["group-components"] |= {"trials_{trial}": 2, "embeddings": 1, "measures": 1}


def undisturbed(project, folder):
    return Run(project, folder, filled_in).start(first_wait=3).finish()


def over_time(project, folder):
    """A training that hangs, until its submission has used up its minute."""

    def minutes(settings):
        resources = settings["set-resources"]
        for rule, runtime in {"train_final": "1 if attempt == 1 else 10", "embed": 0, "measure": 0}.items():
            resources[rule]["runtime"] = runtime

    run = Run(project, folder, minutes, hold=True).start(first_wait=9)
    assert run.held()["TimeLimit"] == "00:01:00"
    return run.finish()


def out_of_memory(project, folder):
    def memory(settings):
        for rule in settings["set-resources"].values():
            rule["mem_mb"] = "300 * attempt ** 3"

    return Run(project, folder, memory).start().finish()


def cancelled(project, folder):
    run = Run(project, folder, lambda settings: None, hold=True).start()
    slurm("scancel", run.held()["JobId"])
    return run.finish()


def node_lost(project, folder):
    """The power of a node fails: its processes are gone at once, and SLURM says so later."""

    def fragile(settings):
        for rule in settings["set-resources"].values():
            rule["slurm_partition"] = "fragile"

    run = Run(project, folder, fragile, hold=True).start()
    job = run.held()
    node = job["NodeList"]
    slurm_cluster.kill_node(node, job["JobId"])
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        return run.finish()
    finally:
        slurm_cluster.start_node(node)


def snakemake_killed(project, folder):
    """As the README has it: the old run's jobs are cancelled, the folder unlocked, the same command given again."""
    run = Run(project, folder, lambda settings: None, hold=True).start()
    run.held()
    run.kill()
    run.left = run.states()
    slurm("scancel", "--name", run.name())
    wait_for(lambda: run.states() == ["CANCELLED"])
    return run.start().finish()


def snakemake_killed_and_its_job_left(project, folder):
    """What the README advises against: the job of the killed run works on, beside that of the new one."""
    run = Run(project, folder, lambda settings: None, hold=True).start()
    run.held()
    run.kill()
    left = run.name()
    run.start()
    wait_for(lambda: run.is_submitted() and run.states() == ["RUNNING"], run)
    let_go(held(folder))
    run.left = run.states(left)
    run.finish()
    wait_for(lambda: run.states(left) != ["RUNNING"])
    return run


DISTURBANCES = (
    over_time,
    out_of_memory,
    cancelled,
    node_lost,
    snakemake_killed,
    snakemake_killed_and_its_job_left,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All studies, side by side: name -> the run or what went wrong; `metrics` are those without a cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    local = Project(folder / "local")
    local.snakemake("--cores", "2", METRICS, study=STUDY)
    with ThreadPoolExecutor(max_workers=7) as pool:
        found = {"undisturbed": pool.submit(undisturbed, Project(folder / "fresh"), folder / "undisturbed")}
        template = Run(local, folder / "template", lambda settings: None)
        shutil.rmtree(template.folder / "results" / SEED)
        (template.folder / METRICS).unlink()
        for disturb in DISTURBANCES:
            found[disturb.__name__] = pool.submit(disturb, template, folder / disturb.__name__)
        try:
            yield {"metrics": (local.folder / METRICS).read_bytes()} | found
        finally:
            for process in Run.processes:
                process.kill()


def test_a_study_becomes_few_submissions(tmp_path):
    """One trains all folds of a trial or seed, or measures a seed; or several trials where they are put together."""
    project = Project(tmp_path)
    for components, given in {
        1: [],
        2: ["--group-components", "trials_{trial}=2", "embeddings=4", "measures=4"],
    }.items():
        planned = project.snakemake("-n", "--workflow-profile", PROFILE, *given)
        groups = re.findall(r"^\[.*\] Group job (.*) \(", planned, re.MULTILINE)
        # two methods with a trial 0 and a trial 1, and one that has only the former
        trials = {1: ["trials_0"] * 3 + ["trials_1"] * 2, 2: ["trials_0"] * 2 + ["trials_1"]}
        assert sorted(groups) == ["embeddings"] * 2 + ["finals"] * 6 + ["measures"] * 2 + trials[components]


@on_the_cluster
def test_a_study_comes_out_as_on_one_machine(runs):
    run = runs["undisturbed"].result()
    assert run.metrics() == runs["metrics"]
    assert set(run.states()) == {"COMPLETED"}


@on_the_cluster
def test_every_job_asks_for_what_it_needs(runs):
    asked = {}
    run = runs["undisturbed"].result()
    for job in run.jobs():
        rules = re.match(r"(?:rule_)?(.*?)_*(?:wildcards_.*)?$", job["Comment"])[1]
        cpus, memory = re.search(r"cpu=(\d+),mem=(\w+)", job["TRES"]).groups()
        gpus = job.get("TresPerJob", "none").removeprefix("gres:gpu:")
        asked.setdefault(rules, []).append((job["Partition"], gpus, int(cpus), memory, job["TimeLimit"]))
        assert (job["Account"], job["Nice"]) == ("vision", "7")
    # the jobs of a submission run in turn: it takes one GPU, and the sum of their times
    assert asked == {
        "pack": [("cpu", "none", 1, "4000M", "01:00:00")] * 2,
        "trials_0_train_trial": [("gpu", "pretend:1", 2, "16000M", "08:00:00")],
        "finals_train_final": [("gpu", "pretend:1", 2, "16000M", "04:00:00")] * 2,
        "embeddings_embed": [("gpu", "pretend:1", 2, "16000M", "00:30:00")] * 2,
        "measures_measure": [("cpu", "none", 1, "8000M", "00:30:00")] * 2,
    }
    assert len((run.folder / "precommands").read_text().splitlines()) == len(run.jobs())


@on_the_cluster
def test_a_training_that_reaches_its_time_limit_goes_on(runs):
    run = runs["over_time"].result()
    assert run.states() == ["TIMEOUT", "COMPLETED"]
    assert [job["TimeLimit"] for job in run.jobs()] == ["00:01:00", "00:10:00"]
    assert run.went_on()
    assert run.metrics() == runs["metrics"]


@on_the_cluster
def test_a_job_that_exceeds_its_memory_gets_more(runs):
    run = runs["out_of_memory"].result()
    assert run.states() == ["FAILED", "COMPLETED"]
    assert [job["MinMemoryNode"] for job in run.jobs()] == ["300M", "2400M"]
    logs = (run.folder / "logs/slurm").rglob("*.log")
    assert any("exceeded memory limit" in log.read_text() for log in logs)
    assert run.metrics() == runs["metrics"]


@on_the_cluster
def test_a_cancelled_job_goes_on(runs):
    run = runs["cancelled"].result()
    assert run.states() == ["CANCELLED", "COMPLETED"]
    assert run.went_on()
    assert run.metrics() == runs["metrics"]


@on_the_cluster
def test_a_job_whose_node_is_lost_goes_on_elsewhere(runs):
    run = runs["node_lost"].result()
    assert run.states() == ["NODE_FAIL", "COMPLETED"]
    first, second = run.jobs()
    assert first["NodeList"] != second["NodeList"]
    assert run.went_on()
    assert run.metrics() == runs["metrics"]


@on_the_cluster
def test_a_run_that_is_killed_and_started_again_goes_on(runs):
    run = runs["snakemake_killed"].result()
    assert run.left == ["RUNNING"]
    assert run.states() == ["COMPLETED"]
    assert run.went_on()
    assert run.metrics() == runs["metrics"]


@on_the_cluster
def test_a_run_that_is_started_again_beside_the_job_of_a_killed_one(runs):
    run = runs["snakemake_killed_and_its_job_left"].result()
    assert run.left == ["RUNNING"]  # at the same time as the new one
    assert run.states() == ["COMPLETED"]
    assert run.metrics() == runs["metrics"]
    seed = run.folder / "results" / SEED
    assert len(list(seed.glob("fold*/model.safetensors"))) == len(list(seed.glob("fold*/record.json"))) == 2
