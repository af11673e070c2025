"""What each kind of cluster is asked for: job scripts, manifests and arguments, without a scheduler at hand."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from builders.waiting import wait_for
from distributed import Client, Event, LocalCluster, SSHCluster
from distributed.config import defaults

import daskt2i
from daskt2i.config.workflow_file import shipped
from daskt2i.deploy.cluster_file import ClusterFile
from daskt2i.deploy.kinds.adapting import ByTasks
from daskt2i.deploy.kinds.by_class import kind_by_path, kind_of
from daskt2i.deploy.kinds.jobqueue import Jobqueue
from daskt2i.deploy.kinds.kind import Kind
from daskt2i.deploy.kinds.request import Refused, Request, variables
from daskt2i.deploy.kinds.slurm import Slurm, seconds
from daskt2i.deploy.kinds.small import Cuda, Gateway
from daskt2i.deploy.workers import workers_of
from daskt2i.errors import ConfigError, SchedulerError

GIB = 1 << 30
THREADS = {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "8"}
NAMES = ("slurm", "pbs", "sge")
LARGE = {"queue": "long", "walltime": "2:00:00"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Certificates and logs of jobs go into the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def request(name: str, **changes: Any) -> Request:
    config = ClusterFile.read(name).config
    given = {"workers": 4, "threads": 8, "memory": 16 * GIB, "environ": THREADS, "config": config}
    return Request(**{"name": "daskt2i-test", **given, **changes})


@contextmanager
def asked(name: str, **given: Any) -> Iterator[tuple[Any, Any, dict[str, Any], Request]]:
    """Kind, class, arguments and request for a shipped cluster file of dask-jobqueue."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    file = ClusterFile.read(name)
    factory = getattr(jobqueue, file.factory.rpartition(".")[2])
    kind, what = kind_of(factory), request(name)
    with ExitStack() as stack:
        arguments = kind.arguments(factory, {**file.arguments, **given}, what, stack)
        kind.check(factory, arguments)
        yield kind, factory, arguments, what


def script(name: str, **given: Any) -> str:
    with asked(name, **given) as (kind, factory, arguments, what):
        return kind.preview(factory, arguments, what)


def test_every_shipped_file_is_read_and_those_with_workers_elsewhere_say_how_large_a_worker_is() -> None:
    files = [ClusterFile.read(path.stem) for path in shipped("clusters").glob("*.yaml")]
    there = {file.name for file in files if file.elsewhere}
    assert there == {"slurm", "pbs", "sge", "ssh", "kubernetes", "gateway"}
    assert {file.name for file in files} - there == {"local", "simulation", "cuda"}


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("slurm", ["#SBATCH -p long", "#SBATCH --cpus-per-task=8", "#SBATCH --mem=16G", "#SBATCH -t 2:00:00"]),
        ("pbs", ["#PBS -q long", "#PBS -l select=1:ncpus=8:mem=16GB", "#PBS -l walltime=2:00:00"]),
        ("sge", ["#$ -q long", "#$ -l h_rt=2:00:00"]),
    ],
)
def test_a_job_asks_for_the_cores_the_memory_and_the_time_of_the_plan(name: str, lines: list[str]) -> None:
    found = script(name, **LARGE)
    assert set(lines) <= set(found.splitlines()), found
    worker = found.splitlines()[-1]
    assert "--nthreads 8 --memory-limit 16.00GiB" in worker
    assert "--nworkers" not in worker
    assert subprocess.run(["bash", "-n"], input=found, text=True, check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_job_has_the_environment_and_the_settings_of_a_local_worker(name: str) -> None:
    exports = "\n".join(line for line in script(name).splitlines() if line.startswith("export "))
    told = subprocess.run(["env", "-i", "bash", "-c", f"{exports}\nenv"], capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in told.stdout.splitlines())
    assert found["OMP_NUM_THREADS"] == "8"
    assert found["DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE"] == "0.8"
    malloc = ast.literal_eval(found["DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON"])
    assert malloc == {"MALLOC_TRIM_THRESHOLD_": None, "MALLOC_ARENA_MAX": 1}


def test_dask_reads_the_settings_that_are_sent_as_variables() -> None:
    import dask.config

    given = request("slurm", config={"distributed.nanny.pre-spawn-environ.A_B": 1, "distributed.comm.retry.count": 3})
    found = dask.config.collect(paths=[], env=variables(given))
    merged = dask.config.merge(defaults, found)
    assert merged["distributed"]["comm"]["retry"]["count"] == 3
    assert merged["distributed"]["nanny"]["pre-spawn-environ"]["A_B"] == 1
    assert merged["distributed"]["nanny"]["pre-spawn-environ"]["MALLOC_TRIM_THRESHOLD_"]


@pytest.mark.parametrize("name", NAMES)
def test_the_certificates_of_a_run_are_files_for_this_user_alone_and_go_with_it(name: str, home: Path) -> None:
    with asked(name) as (kind, factory, arguments, what):
        found = kind.preview(factory, arguments, what)
        files = [Path(path) for path in re.findall(r"--tls-[a-z-]+ (\S+)", found)]
        assert len(files) == 3
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700
        assert "--protocol tls://" in found
        assert "BEGIN" not in found
    assert not list((home / ".cache/daskt2i/jobs").iterdir())


def test_tls_can_be_turned_off_for_jobs_and_the_users_own_settings_of_a_job_stay() -> None:
    jobqueue = pytest.importorskip("dask_jobqueue")
    own = {"job_script_prologue": ["module load x"], "worker_extra_args": ["--lifetime", "1h"], "processes": 2}
    kind = kind_of(jobqueue.SLURMCluster)
    with ExitStack() as stack:
        arguments = kind.arguments(jobqueue.SLURMCluster, own, request("slurm", tls=False), stack)
        found = kind.preview(jobqueue.SLURMCluster, arguments, request("slurm"))
    assert "--tls" not in found
    assert found.index("export OMP_NUM_THREADS=8") < found.index("module load x")
    assert "--dashboard-address 127.0.0.1:0 --lifetime 1h" in found
    assert "#SBATCH --cpus-per-task=16" in found
    assert "#SBATCH --mem=32G" in found
    assert "--nworkers 2" in found


def test_the_plan_says_what_will_be_asked_of_the_batch_system() -> None:
    with asked("slurm", queue="debug", walltime="2:00:00") as (kind, _, arguments, what):
        assert kind.words(arguments, what) == "4 jobs of 8 cores, 16.0 GiB, 2:00:00, partition debug"
    with asked("pbs", processes=2) as (kind, _, arguments, what):
        assert kind.words(arguments, what) == "2 jobs of 16 cores, 32.0 GiB, 00:30:00, 2 workers in a job"


def test_an_argument_that_no_class_has_is_named_with_a_similar_one() -> None:
    with pytest.raises(Refused, match=r"SLURMCluster has no argument 'que' \(did you mean 'queue'\?\)"):
        script("slurm", que="debug")
    with pytest.raises(Refused, match="finds the jobs of a run by their name, so job_name cannot be given"):
        script("slurm", job_name="mine")
    with pytest.raises(Refused, match=r"KubeLike has no argument 'imag' .did you mean 'image'"):
        Kind().check(KubeLike, {"imag": "x"})
    Kind().check(LocalCluster, {"memory_limit": 1})  # LocalCluster passes it to its workers


class KubeLike:
    def __init__(self, image: str = "") -> None: ...


SQUEUE = {
    "1|PENDING|Resources|0:00": {"pending": 1, "running": 0, "reasons": ["Resources"], "hopeless": False},
    "1|PENDING|PartitionConfig|0:00": {"pending": 1, "hopeless": True},
    "1|PENDING|PartitionConfig|0:00\n2|RUNNING|None|0:10": {"pending": 1, "running": 1, "hopeless": False},
    "1|CANCELLED|None|5:00\n2|COMPLETING|None|5:00": {"running": 0, "pending": 0, "ended": ["cancelled"]},
}


def told_by_squeue(folder: Path, text: str) -> None:
    """A program `squeue` that prints this."""
    program = folder / "squeue"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    program.chmod(0o755)


@pytest.mark.parametrize("text", SQUEUE)
def test_what_slurm_says_of_the_jobs_is_read(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    told_by_squeue(tmp_path, text)
    found = Slurm().queue(None, request("slurm")) or {}
    assert {name: found[name] for name in SQUEUE[text]} == SQUEUE[text]


def test_jobs_that_slurm_has_forgotten_have_left_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    kind = Slurm()
    for text in ("1|RUNNING|None|5:00", ""):
        told_by_squeue(tmp_path, text)
        found = kind.queue(None, request("slurm")) or {}
    assert (found["running"], found["ended"]) == (0, ["gone"])


class Submitting:
    """As a cluster of dask-jobqueue: jobs by name."""

    def __init__(self) -> None:
        self.workers = {"w-0": SimpleNamespace(job_id="1"), "w-1": SimpleNamespace(job_id=2)}
        self.worker_spec: dict[str, Any] = {"w-0": {}, "w-1": {}}
        self._i, self.submitted = 1, 0
        self.scheduler: Any = None

    def new_worker_spec(self) -> dict[str, Any]:
        self._i += 1
        return {f"w-{self._i}": {}}

    def scale(self, workers: int) -> None: ...

    async def _correct_state(self) -> None:
        self.submitted += len(self.worker_spec.keys() - self.workers.keys())

    def sync(self, function: Any, *arguments: Any) -> None:
        asyncio.run(function(*arguments))


@pytest.mark.parametrize(
    ("text", "submitted"),
    [
        ("1|TIMEOUT|None|30:00\n2|RUNNING|None|30:00", 1),
        ("1|COMPLETED|None|1-02:00:00\n2|PREEMPTED|None|30:00", 2),  # a worker leaves before its walltime
        ("1|CANCELLED|None|30:00\n2|FAILED|None|30:00", 0),
        ("1|COMPLETED|None|0:07\n2|TIMEOUT|None|0:59", 0),  # it would only end again
    ],
)
def test_jobs_whose_time_was_over_are_submitted_again_once(
    text: str, submitted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    told_by_squeue(tmp_path, text)
    kind, cluster, what = Slurm(), Submitting(), request("slurm")
    for first in (True, False):
        kind.queue(cluster, what)
        assert kind.renew(cluster, what) == (first and submitted > 0)
    assert cluster.submitted == submitted
    assert len(cluster.worker_spec) == 2


def test_a_short_job_whose_worker_had_come_is_submitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    kind, cluster, what = Slurm(), Submitting(), request("slurm")
    cluster.scheduler = SimpleNamespace(workers={"tls://10.0.0.1:4": SimpleNamespace(name="w-1-0")})
    told_by_squeue(tmp_path, "1|RUNNING|None|0:40\n2|RUNNING|None|0:40")
    kind.queue(cluster, what)
    told_by_squeue(tmp_path, "1|COMPLETED|None|0:50\n2|COMPLETED|None|0:50")
    found = kind.queue(cluster, what)
    assert kind.renew(cluster, what)
    assert cluster.submitted == 1
    assert found is not None
    assert set(cluster.workers) == {"w-0"}


def test_a_cluster_that_adapts_forgets_jobs_whose_time_was_over_and_asks_for_new_ones_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    told_by_squeue(tmp_path, "1|TIMEOUT|None|30:00\n2|RUNNING|None|30:00")
    kind, cluster, what = Slurm(), Submitting(), request("slurm", adapt={"minimum": 1, "maximum": 2})
    kind.queue(cluster, what)
    assert kind.renew(cluster, what)
    assert set(cluster.worker_spec) == set(cluster.workers) == {"w-1"}
    assert cluster.submitted == 0
    assert (kind.queue(cluster, what) or {})["ended"] == []
    kind.fix(cluster, what)
    told_by_squeue(tmp_path, "1|TIMEOUT|None|30:00\n2|TIMEOUT|None|30:00")
    kind.queue(cluster, what)
    assert kind.renew(cluster, what)
    assert cluster.submitted == 1


def test_a_worker_leaves_before_the_walltime_of_its_job() -> None:
    assert [seconds(text) for text in ("30", "30:00", "2:00:00", "1-12", "1-12:30:15")] == [
        *(1800, 1800, 7200),
        *(129600, 131415),
    ]
    assert seconds("UNLIMITED") is None
    assert "--lifetime 6900s --lifetime-stagger 75s" in script("slurm", walltime="2:00:00")
    assert "--lifetime 1h" in script("slurm", worker_extra_args=["--lifetime", "1h"])
    assert "--lifetime" not in script("slurm", walltime="UNLIMITED")


def test_the_words_of_a_batch_system_are_told_without_the_command() -> None:
    pytest.importorskip("dask_jobqueue")
    error = RuntimeError(
        "Command exited with non-zero exit code.\nExit code: 1\nCommand:\nsbatch /tmp/x.sh\nstdout:\n\nstderr:\n"
        "sbatch: error: invalid partition specified: nosuch\nsbatch: error: Batch job submission failed: no.\n\n"
    )
    said = kind_by_path("dask_jobqueue.SLURMCluster").explain(error)
    expected = "invalid partition specified: nosuch; Batch job submission failed: no"
    assert said == f"the batch system refused a job ({expected})"


def test_a_class_of_ones_own_has_the_kind_of_its_base_class() -> None:
    jobqueue = pytest.importorskip("dask_jobqueue")
    site = type("OurCluster", (jobqueue.SLURMCluster,), {"__module__": "our.site"})
    assert type(kind_of(site)).__name__ == "Slurm"
    assert type(kind_of(SSHCluster)).__name__ == "Ssh"
    assert type(kind_of(LocalCluster)).__name__ == "Local"
    assert type(kind_by_path("coiled.Cluster")) is Kind


def test_hosts_of_ssh_get_threads_memory_and_pages_for_themselves_alone() -> None:
    kind, given = kind_of(SSHCluster), {"hosts": ["a", "b", "c"], "worker_options": {"n_workers": 2}}
    with ExitStack() as stack:
        arguments = kind.arguments(SSHCluster, given, request("ssh"), stack)
    kind.check(SSHCluster, arguments)
    options = arguments["worker_options"]
    assert (options["nthreads"], options["memory_limit"], options["n_workers"]) == (8, 16 * GIB, 2)
    assert options["dashboard_address"] == "127.0.0.1:0"
    assert arguments["scheduler_options"]["dashboard_address"] == "127.0.0.1:8787"
    assert kind.words(arguments, request("ssh")) == "4 workers of 8 threads, 16.0 GiB on b, c"
    assert kind.fill(None, arguments, request("ssh")) == 4
    assert kind.preview(SSHCluster, arguments, request("ssh")).startswith("a: scheduler\nb: 2 workers (nthreads=8")
    with pytest.raises(Refused, match="two hosts or more"), ExitStack() as stack:
        kind.arguments(SSHCluster, {"hosts": "a"}, request("ssh"), stack)
    with pytest.raises(Refused, match=r"no argument 'host' .did you mean 'hosts'"):
        kind.check(SSHCluster, {"host": ["a"]})


def crd() -> dict[str, Any]:
    """The schema of a DaskCluster, as the operator publishes it."""
    operator = pytest.importorskip("dask_kubernetes.operator", reason="the extra kubernetes is not installed")
    folder = Path(operator.__file__).parent / "deployment/helm/dask-kubernetes-operator/crds"
    data = yaml.load((folder / "daskcluster.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    schema: dict[str, Any] = data["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def strict(schema: Any) -> Any:
    """The API server drops fields that a schema does not name; here they are errors."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    free = found.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in found
    return found if "properties" not in found or free else {**found, "additionalProperties": False}


def test_the_manifest_for_kubernetes_is_valid_for_the_operator() -> None:
    schema, jsonschema = crd(), pytest.importorskip("jsonschema")
    from dask_kubernetes.operator import KubeCluster

    kind, file = kind_of(KubeCluster), ClusterFile.read("kubernetes")
    secret = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "key"}}}]
    what = request("kubernetes", tls=False)
    with ExitStack() as stack:
        arguments = kind.arguments(KubeCluster, {**file.arguments, "env": secret}, what, stack)
    kind.check(KubeCluster, arguments)
    manifest = yaml.safe_load(kind.preview(KubeCluster, arguments, what))
    full = strict(schema)
    full["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    validator = jsonschema.Draft202012Validator(full)
    assert [error.message for error in validator.iter_errors(manifest)] == []
    broken = {**manifest, "spec": {**manifest["spec"], "wrong": 1}}
    assert "'wrong' was unexpected" in str([error.message for error in validator.iter_errors(broken)])
    worker = manifest["spec"]["worker"]
    container = worker["spec"]["containers"][0]
    assert worker["replicas"] == 4
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "16384Mi"}
    assert container["args"][:6] == ["dask", "worker", "--nthreads", "8", "--memory-limit", str(16 * GIB)]
    assert {"name": "OMP_NUM_THREADS", "value": "8"} in container["env"]
    assert secret[0] in container["env"]
    assert manifest["spec"]["scheduler"]["spec"]["containers"][0]["args"][:2] == ["dask", "scheduler"]
    assert kind.words(arguments, what) == "4 pods of 8 cores, 16.0 GiB, image daskt2i:latest"
    with pytest.raises(Refused, match="KubeCluster has no TLS; write `tls: false`"), ExitStack() as stack:
        kind.arguments(KubeCluster, {}, request("kubernetes"), stack)


class OnGpus(LocalCluster):
    """As in dask-cuda, which needs a GPU to be imported."""

    def __init__(
        self, n_workers: Any = None, device_memory_limit: Any = 1, rmm_pool_size: Any = 1, **more: Any
    ) -> None:
        pass


def test_gpus_get_one_worker_each_and_torch_keeps_their_memory() -> None:
    with ExitStack() as stack:
        found = Cuda().arguments(OnGpus, ClusterFile.read("cuda").arguments, request("cuda"), stack)
    assert found["n_workers"] == 4
    assert (found["threads_per_worker"], found["device_memory_limit"], found["rmm_pool_size"]) == (1, 0, None)
    assert found["security"] is True


def test_a_gateway_gets_the_options_of_the_file_and_is_scaled() -> None:
    options = {"cluster_options": {"worker_cores": 8}}
    with ExitStack() as stack:
        found = Gateway().arguments(None, options, request("gateway"), stack)
    assert found == options
    scaled: list[int] = []
    assert Gateway().fill(SimpleNamespace(scale=scaled.append), found, request("gateway")) == 4
    assert scaled == [4]


def test_the_plan_of_an_encode_on_a_batch_system_names_the_jobs(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    with daskt2i.Run("demo", tmp_path / "run", scheduler="slurm:4", progress=False) as run:
        plan = run.plan()
    assert plan.layout is not None
    assert "#SBATCH" in plan.layout.script
    assert dict(plan.view().rows)["workers"] == "4 jobs of 2 cores, 4.0 GiB, 00:30:00"


def test_adapt_is_asked_for_and_ends_when_ranks_need_a_fixed_number() -> None:
    told: list[Any] = []
    adaptive = SimpleNamespace(stop=lambda: told.append("stop"))
    cluster = SimpleNamespace(adapt=lambda **how: told.append(how), scale=told.append, _adaptive=adaptive)
    what = request("slurm", adapt={"minimum": 1, "maximum": 10})
    assert Kind().fill(cluster, {}, what) == 1
    Kind().fix(cluster, what)
    assert told == [{"minimum": 1, "maximum": 10}, "stop", 10]


@pytest.mark.parametrize(
    ("queued", "processing", "target"),
    [(0, [], 0), (0, [2], 10), (1, [1], 10), (0, [1], 1), (0, [1, 1, 0], 2), (0, [2, 2, 2], 10), (1, [], 10)],
)
def test_jobs_are_asked_for_by_the_number_of_tasks(queued: int, processing: list[int], target: int) -> None:
    workers = {str(number): SimpleNamespace(processing=range(tasks)) for number, tasks in enumerate(processing)}
    scheduler = SimpleNamespace(queued=range(queued), unrunnable=(), workers=workers)
    adaptive = ByTasks(SimpleNamespace(scheduler=scheduler), minimum=1, maximum=10, interval=0)
    assert asyncio.run(adaptive.target()) == target


def test_a_cluster_has_its_maximum_while_there_is_more_to_do_and_its_minimum_afterwards() -> None:
    here = {"processes": False, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    what = request("slurm", adapt={"minimum": 1, "maximum": 3, "interval": "50ms"})
    with LocalCluster(n_workers=1, **here) as cluster, Client(cluster, set_as_default=False) as client:
        Jobqueue().fill(cluster, {}, what)
        tasks = [client.submit(_until_told, number) for number in range(2)]
        wait_for(lambda: len(workers_of(client)) == 3, what="workers for the second task of one worker")
        Event("go on", client=client).set()
        assert client.gather(tasks) == [True, True]
        wait_for(lambda: len(workers_of(client)) == 1, what="the end of the others")


def _until_told(number: int) -> bool:
    return bool(Event("go on").wait(60))


def test_the_users_own_pace_of_adapting_is_kept() -> None:
    kind = Slurm()
    assert kind.adapting(request("slurm", adapt={"maximum": 9})) == {"Adaptive": ByTasks}
    assert kind.adapting(request("slurm", adapt={"maximum": 9, "target_duration": "5s"})) == {}


@pytest.mark.parametrize("adapt", [{"maximum": 2}, {"minimum": 0, "maximum": 2}])
def test_a_cluster_that_adapts_has_a_worker_always(adapt: dict[str, int]) -> None:
    told: list[Any] = []
    cluster = SimpleNamespace(adapt=lambda **how: told.append(how))
    assert Kind().fill(cluster, {}, request("slurm", adapt=adapt)) == 1
    assert told == [{"minimum": 1, "maximum": 2}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workers: 0", "workers is 0, but it must be a number of workers from 1 to 250,000"),
        ("workers: 100000000000", "workers is 100000000000, but it must be a number of workers from 1 to 250,000"),
        ("adapt: {maximum: 100000000000}", "adapt is .*, but it must have the form"),
        ("worker: {cores: 100000000000, memory: 1 GiB}", "8,192 cores at most"),
        ("worker: {cores: 2}", r"worker is .*, but it must have the form \{cores: 4, memory: 8 GiB\}"),
        ("worker: {cores: 2, memory: lots}", "but it must have the form"),
        ("adapt: 3", "adapt is 3, but it must have the form"),
        ("adapt: {minimum: 5, maximum: 1}", "adapt is .*, but it must have the form"),
        ("adapt: {minimum: few, maximum: 2}", "adapt is .*, but it must have the form"),
        ("adapt: {minimum: 0}", "adapt is .*, but it must have the form"),
        ("adapt: {maximum: 2, speed: 3}", "adapt is .*, but it must have the form"),
        ("config: {3: 4}", "config is .*, but it must hold names with values"),
        ("wait_minutes: never", "wait_minutes is 'never', but it must be a number of minutes above 0, such as 30"),
        ("wait_minutes: .nan", "wait_minutes is nan, but it must be a number of minutes above 0, such as 30"),
        ("wait_minutes: .inf", "wait_minutes is inf, but it must be a number of minutes .* at most 527,040"),
        ("wait_minutes: -3", "wait_minutes is -3, but it must be a number of minutes above 0"),
        ("wait_minutes: 1e99", "at most 527,040"),
        ("tls: 'no'", "tls is 'no', but it must be true or false"),
        ("config_of: nosuch", "no cluster named 'nosuch'"),
    ],
)
def test_a_wrong_value_in_a_cluster_file_is_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"cluster: distributed.LocalCluster\n{text}\n")
    with pytest.raises(ConfigError, match=words):
        ClusterFile.read(str(path))


@pytest.mark.parametrize("text", ["", "- a\n", "only words\n", "3\n"])
def test_a_cluster_file_that_is_no_mapping_is_told_the_keys_of_a_cluster_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml does not hold settings .*`cluster: distributed.LocalCluster`"):
        ClusterFile.read(str(path))


def test_a_walltime_without_quotes_is_a_time(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("cluster: dask_jobqueue.SLURMCluster\narguments: {walltime: 2:00:00}\n")
    assert ClusterFile.read(str(path)).arguments == {"walltime": "2:00:00"}


CANNOT_START = [
    ("cluster: os.path.join", "join needs the argument 'a', which the file does not give"),
    ("cluster: os.sep", "it names a str, but it must name the class of a cluster"),
    ("cluster: collections.OrderedDict", "OrderedDict is not the class of a cluster"),
    ("cluster: distributed.LocalCluster\narguments: {memory_limt: 1GiB}", "did you mean 'memory_limit'"),
    ("cluster: distributed.LocalCluster\narguments: {memory_limit: lots}", "lots"),
    ("cluster: nowhere.LocalCluster", "names nowhere.LocalCluster, which cannot be imported"),
]


@pytest.mark.parametrize(("text", "words"), CANNOT_START, ids=[text for text, _ in CANNOT_START])
def test_a_plan_refuses_a_cluster_of_this_machine_that_cannot_start(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{text}\n")
    with pytest.raises((ConfigError, SchedulerError), match=words):
        ClusterFile.read(str(path)).check(1, 1, GIB)


def test_a_plan_takes_a_cluster_of_this_machine_that_can_start_and_starts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    given = "{processes: true, threads_per_worker: 1, host: 127.0.0.1, resources: {GPU: 1}, lifetime: 1h}"
    path.write_text(f"cluster: distributed.LocalCluster\narguments: {given}\n")
    ClusterFile.read(str(path)).check(2, 1, GIB)
    ClusterFile.read("local").check(2, 1, GIB)
    ClusterFile.read("simulation").check(2, 1, GIB)


@pytest.mark.skipif(importlib.util.find_spec("dask_cuda") is not None, reason="dask-cuda is installed")
def test_a_plan_names_the_extra_of_a_cluster_whose_package_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pip install 'daskt2i\[cuda\]'"):
        daskt2i.Run("demo", tmp_path / "run", scheduler="cuda", progress=False).plan()


DOCKERFILES = sorted(shipped("clusters").glob("kubernetes/Dockerfile*"))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_built_in_two_stages_from_the_wheel_and_runs_as_a_plain_user(path: Path) -> None:
    """No Docker here: this checks what can be read."""
    steps = re.sub(r"\\\n\s*", "", path.read_text()).splitlines()
    words = [line.split(maxsplit=1) for line in steps if line and not line.startswith("#")]
    assert [word for word, _ in words if word == "FROM"] == ["FROM"] * 2
    assert ("COPY", "dist/daskt2i-*.whl /wheels/") in [(word, rest) for word, rest in words]
    assert ("USER", "1000") in [(word, rest) for word, rest in words]
    last = max(i for i, (word, _) in enumerate(words) if word == "FROM")
    assert not any("pip install" in rest for word, rest in words[last:] if word == "RUN"), "no caches in the image"
    for word, rest in words:
        if word == "RUN":
            assert subprocess.run(["bash", "-n", "-c", rest], check=False).returncode == 0
            if shellcheck := shutil.which("shellcheck"):
                assert subprocess.run([shellcheck, "-s", "sh", "-"], input=rest, text=True, check=False).returncode == 0
