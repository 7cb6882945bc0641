"""A SLURM cluster for the tests, on this machine alone: `python tests/slurm_cluster.py install|start|stop`.

Four nodes that share the machine, with pretend GPUs: SLURM counts them and hands them out, nothing is behind them.
Everything listens on 127.0.0.1. Needs root and the packages of Debian; does not touch a SLURM that is there already.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CLUSTER = "dmltest"  # by this name the tests know that it is no real one
PACKAGES = ["munge", "slurmctld", "slurmd", "slurm-client"]
FOLDER = Path("/var/tmp/dml_slurm")
ETC = Path("/etc/slurm")  # no other place: the executor plugin drops SLURM_CONF on its way to a job
MARK = "# Written by tests/slurm_cluster.py of dml; stop removes it.\n"
CONFIGS = ("slurm.conf", "gres.conf", "cgroup.conf")
NODES = ["n1", "n2", "n3", "n4"]  # the last two are for the test that takes a node down
GPUS = 2  # of each node
PORT = 26817

SLURM_CONF = """\
ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={slurmd_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
AuthType=auth/munge
MpiDefault=none
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmdSpoolDir={folder}/spool/%n
# no cgroups: memory is looked at once a second
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
# more processors than the machine has
SlurmdParameters=config_overrides
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0
GresTypes=gpu
# seconds from SIGTERM to SIGKILL at a job's time limit
KillWait=5
# no accounting: what became of a job is asked of squeue, and kept in a file
MinJobAge=7200
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobs.log
{nodes}
PartitionName=cpu Nodes=n[1-2] Default=YES MaxTime=1440
PartitionName=gpu Nodes=n[1-2] MaxTime=1440
PartitionName=fragile Nodes=n[3-4] MaxTime=1440
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
    " CPUs=8 RealMemory=100000 Gres=gpu:pretend:{gpus}"
)
GRES_CONF = """\
AutoDetect=off
Name=gpu Type=pretend Flags=nvidia_gpu_env File={folder}/dev/nvidia[0-{last}]
"""


def answers() -> bool:
    """Whether the cluster that the commands of SLURM reach is this one."""
    if not shutil.which("scontrol") or not _ours(ETC / "slurm.conf"):
        return False
    try:
        config = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return False
    name = [line.split("=")[1].strip() for line in config.stdout.splitlines() if line.startswith("ClusterName")]
    return name == [CLUSTER]


def refuse_another() -> None:
    """Where there is a SLURM already, nothing is installed, written or started."""
    foreign = [str(ETC / name) for name in CONFIGS if (ETC / name).exists() and not _ours(ETC / name)]
    foreign += [str(path) for path in [Path("/run/slurm/conf")] if path.exists()]
    foreign += ["SLURM_CONF"] if "SLURM_CONF" in os.environ else []
    if not _ours(ETC / "slurm.conf"):
        names = {_name_of(process) for process in Path("/proc").glob("[0-9]*")}
        foreign += sorted(names & {"slurmctld", "slurmd"})
    if foreign:
        sys.exit(f"error: there is a SLURM here already: {', '.join(foreign)}")


def _name_of(process: Path) -> str | None:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return None


def install() -> None:
    refuse_another()
    if all(map(shutil.which, ["munged", "slurmctld", "slurmd", "sbatch"])):
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def start(folder: Path) -> None:
    refuse_another()
    if _running("slurmctld", folder / "run" / "slurmctld.pid"):
        sys.exit("error: the test cluster is already running")
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("state", "run", "log", "dev", *(f"spool/{node}" for node in NODES)):
        (folder / part).mkdir(parents=True, exist_ok=True)
    try:
        write_config(folder)
        start_munge(folder)
        subprocess.run(["slurmctld"], check=True)
        for node in NODES:
            start_node(node)
        if not _wait_until(lambda: _states() == ["idle"] * len(NODES), 60):
            sys.exit(f"error: the nodes are not ready; see {folder}/log")
    except BaseException:
        stop(folder)
        raise
    print(f"the test cluster is up: {len(NODES)} nodes, state in {folder}")


def start_node(node: str) -> None:
    subprocess.run(["slurmd", "-N", node], check=True)


def kill_node(node: str, job: str) -> None:
    """What a power failure does to a node on which one job runs: all its processes are gone at once."""
    folder = Path(re.search(r"^StateSaveLocation=(.*)/state$", (ETC / "slurm.conf").read_text(), re.MULTILINE)[1])
    pids = [_running("slurmd", folder / "run" / f"slurmd.{node}.pid")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            steps = (process / "cmdline").read_bytes().startswith(f"slurmstepd: [{job}.".encode())
            if steps or f"SLURM_JOB_ID={job}".encode() in (process / "environ").read_bytes().split(b"\0"):
                pids.append(int(process.name))
        except OSError:
            pass  # it has ended
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def write_config(folder: Path) -> None:
    host = socket.gethostname().split(".")[0]
    files = {
        "slurm.conf": SLURM_CONF.format(
            cluster=CLUSTER, host=host, port=PORT, slurmd_port=PORT + 1, folder=folder,
            nodes="\n".join(
                NODE.format(name=name, host=host, port=PORT + 2 + n, gpus=GPUS) for n, name in enumerate(NODES)
            ),
        ),
        "gres.conf": GRES_CONF.format(folder=folder, last=GPUS - 1),
        "cgroup.conf": "CgroupAutomount=no\n",
    }  # fmt: skip
    ETC.mkdir(exist_ok=True)
    for name, text in files.items():
        (ETC / name).write_text(MARK + text)
    for n in range(GPUS):
        device = folder / "dev" / f"nvidia{n}"  # SLURM wants a character device: a twin of /dev/null
        if not device.exists():
            os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def start_munge(folder: Path) -> None:
    """The daemon that signs what the others say; one that runs already is used."""
    if subprocess.run("munge -n | unmunge", shell=True, capture_output=True).returncode == 0:
        return
    for path, mode in (
        ("/run/munge", 0o755),
        ("/etc/munge", 0o700),
        ("/var/lib/munge", 0o700),
        ("/var/log/munge", 0o700),
    ):
        Path(path).mkdir(exist_ok=True)
        shutil.chown(path, "munge", "munge")
        os.chmod(path, mode)
    key = Path("/etc/munge/munge.key")
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        shutil.chown(key, "munge", "munge")
        key.chmod(0o400)
    subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
    shutil.copy("/run/munge/munged.pid", folder / "run" / "munged.pid")


def stop(folder: Path) -> None:
    """End what `start` started, and nothing else."""
    if answers():
        subprocess.run(["scancel", "--quiet", "--user=root"], check=False)
        _wait_until(lambda: not _output("squeue", "--noheader"), 20)
    for node in NODES:
        _stop("slurmd", folder / "run" / f"slurmd.{node}.pid")
    _stop("slurmctld", folder / "run" / "slurmctld.pid")
    _stop("munged", folder / "run" / "munged.pid")
    for name in CONFIGS:
        if _ours(ETC / name):
            (ETC / name).unlink()
    shutil.rmtree(folder / "state", ignore_errors=True)  # the next cluster knows nothing of these jobs
    print("the test cluster is stopped")


def _ours(file: Path) -> bool:
    return file.exists() and file.read_text().startswith(MARK)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()


def _states() -> list[str]:
    return _output("sinfo", "--noheader", "--Node", "--partition=cpu,fragile", "--format=%T").split()


def _running(program: str, pid_file: Path) -> int | None:
    """The process of a pid file, if it still is that program."""
    try:
        pid = int(pid_file.read_text())
        return pid if Path(f"/proc/{pid}/comm").read_text().strip() == program else None
    except (OSError, ValueError):
        return None


def _stop(program: str, pid_file: Path) -> None:
    pid = _running(program, pid_file)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        if not _wait_until(lambda: _running(program, pid_file) is None, 10):
            os.kill(pid, signal.SIGKILL)
    pid_file.unlink(missing_ok=True)


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["install", "start", "stop"])
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"its state and logs; {FOLDER} if not given")
    arguments = parser.parse_args()
    try:
        if arguments.what == "install":
            install()
        else:
            {"start": start, "stop": stop}[arguments.what](arguments.folder.absolute())
    except (OSError, LookupError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error} (are the packages there? `install` fetches them)")
