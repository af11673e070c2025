"""What `deploy`, `executors` and `launch` tell a user to do works, and what a run folder says of the place it is in."""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dask.config
import pytest
import yaml
from builders import CHILD_PATH
from builders.advice import told
from builders.clusters import Pretended
from builders.coco import coco_source, write_coco
from builders.workflows import small_settings
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Client, LocalCluster, Security

import daskt2i
from daskt2i.deploy import connect
from daskt2i.deploy.cluster_file import ClusterFile
from daskt2i.deploy.connect import Connection
from daskt2i.deploy.waiting import Patience
from daskt2i.encoders.fake import FakeImageEncoder
from daskt2i.events import ChunkDone, PlanReady, Waiting, ignore
from daskt2i.executors import dask as dask_executor
from daskt2i.executors.dask import DaskExecutor
from daskt2i.executors.shared_memory import require_semaphores
from daskt2i.launch import rank
from daskt2i.launch.launcher import launch
from daskt2i.launch.placement import WorkerNode
from daskt2i.launch.rank_spawners import Ended, LocalRankSpawner, Message
from daskt2i.launch.sole_use import sole_use
from daskt2i.launch.supervisor import RankSpec
from daskt2i.store.run_folder import RunFolder


def run_of(out: Path, **given: Any) -> daskt2i.Run:
    return daskt2i.Run(given.pop("workflow", None) or small_settings(), out, **{"progress": False, **given})


@contextmanager
def cluster(workers: int = 1, **changes: Any) -> Iterator[LocalCluster]:
    """A scheduler and workers in this process, at an address of TCP."""
    place = {"protocol": "tcp://", "host": "127.0.0.1", "dashboard_address": ":0"}
    with LocalCluster(n_workers=workers, threads_per_worker=1, processes=False, **place, **changes) as found:
        yield found


# Clusters.


def test_a_cluster_file_with_what_it_holds_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("cluster: distributed.LocalCluster\nsize: 4\n")
    with told("deploy/cluster_file.py:ClusterFile.read ConfigError"):
        ClusterFile.read(str(path))
    path.write_text("cluster: distributed.LocalCluster\narguments: {day: 2024-05-01}\nconfig: {}\n")
    with told("deploy/cluster_file.py:_require_plain ConfigError"):
        ClusterFile.read(str(path))
    path.write_text("cluster: distributed.LocalCluster\narguments: {part: .inf}\nconfig: {}\n")
    with told("deploy/cluster_file.py:_require_plain ConfigError"):
        ClusterFile.read(str(path))
    path.write_text("cluster: distributed.LocalCluster\narguments: {part: null, other: 1.5}\nconfig: {}\n")
    assert ClusterFile.read(str(path)).arguments == {"part": None, "other": 1.5}
    path.write_text("cluster: distributed.LocalCluster\narguments: {day: '2024-05-01'}\nconfig: {}\n")
    assert ClusterFile.read(str(path)).arguments == {"day": "2024-05-01"}
    path.write_text(f"cluster: distributed.LocalCluster\nconfig_of: {path}\n")
    with told("deploy/cluster_file.py:ClusterFile.read ConfigError") as error:
        ClusterFile.read(str(path))
    assert "leads to itself" in str(error.value)
    path.write_text("cluster: distributed.LocalCluster\nconfig_of: local\n")
    assert ClusterFile.read(str(path)).config == ClusterFile.read("local").config


def test_a_pool_encodes_where_a_cluster_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", CHILD_PATH)
    kind = f"{Pretended.__module__}.{Pretended.__qualname__}"
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"cluster": kind, "arguments": {"folder": str(tmp_path), "refuse": "no node"}}))
    with (
        told("deploy/cluster_file.py:ClusterFile._explain SchedulerError") as error,
        run_of(tmp_path / "a", scheduler=str(path)) as run,
    ):
        run.encode()
    assert "no node" in str(error.value)
    assert run_of(tmp_path / "b", scheduler="multiprocessing:1").encode().accepted == 4


def test_a_class_that_is_spelt_rightly_and_a_file_that_is_trusted_make_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", CHILD_PATH)
    kind = f"{Pretended.__module__}.{Pretended.__qualname__}"
    path, out = tmp_path / "mine.yaml", tmp_path / "run"
    with cluster() as there:
        arguments = {"folder": str(tmp_path), "address": there.scheduler_address}
        path.write_text(yaml.safe_dump({"cluster": f"{kind}t", "arguments": arguments}))
        named = run_of(out, settings={"run.scheduler": f"{path}:1"})
        with told("deploy/cluster_file.py:ClusterFile._explain ConfigError"):
            named.encode()
        path.write_text(yaml.safe_dump({"cluster": kind, "arguments": arguments}))
        with named:
            assert named.encode().accepted == 4
        with told("session/run_settings.py:scheduler_of ConfigError"):
            daskt2i.open_run(out, progress=False).encode()
        with daskt2i.open_run(out, scheduler=f"{path}:1", progress=False) as trusted:
            assert trusted.encode().skipped == 1


def elsewhere(path: Path, there: LocalCluster, **changes: Any) -> str:
    """A cluster file whose workers do not count as workers of this machine."""
    kind = f"{Pretended.__module__}.{Pretended.__qualname__}"
    arguments = {"folder": str(path.parent), "address": there.scheduler_address, **changes.pop("arguments", {})}
    data = {"cluster": kind, "worker": {"cores": 1, "memory": "4 GiB"}, "arguments": arguments, **changes}
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return str(path)


def test_a_file_that_says_how_large_a_worker_is_and_asks_for_what_is_there_starts_its_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", CHILD_PATH)
    path, out = tmp_path / "mine.yaml", tmp_path / "run"
    with cluster() as there:
        unsized = elsewhere(path, there, cluster="dask_jobqueue.SLURMCluster", worker=None)
        with told("deploy/cluster_file.py:ClusterFile.elsewhere ConfigError"):
            run_of(out, scheduler=unsized).plan()
        small = elsewhere(path, there, worker={"cores": 1, "memory": "20 MiB"})
        with told("session/worker_layout.py:_elsewhere PlanError"):
            run_of(out, scheduler=small).plan()
        with told("session/worker_layout.py:_elsewhere PlanError"):
            run_of(out, scheduler=f"{elsewhere(path, there)}:{10**11}").plan()
        assert run_of(out, scheduler=f"{elsewhere(path, there)}:1000").plan().layout.workers == 1000
        refused = elsewhere(path, there, arguments={"refuse": "no node"})
        with (
            run_of(out, scheduler=refused) as run,
            told("deploy/cluster_file.py:ClusterFile._explain SchedulerError"),
        ):
            run.encode()
        with run_of(out, scheduler=elsewhere(path, there)) as run:
            assert run.encode().accepted == 4


@dataclass
class Jobs:
    """What a queue says, and a scheduler with or without a worker."""

    workers: int | None
    queue: dict[str, Any]


PENDING = {"running": 0, "pending": 2, "reasons": ["Resources"], "ended": [], "hopeless": False}
HOPELESS = {**PENDING, "reasons": ["PartitionConfig"], "hopeless": True}
GONE = {**PENDING, "pending": 0, "ended": ["cancelled"], "log": "No module named daskt2i"}


def test_a_queue_that_is_slow_is_waited_for_longer() -> None:
    with cluster(0) as there, Client(there) as client:
        with told("deploy/waiting.py:Patience.first SchedulerError") as error:
            Patience("mine", client, Jobs(2, PENDING), 0.1, ignore).first(1)
        assert "2 jobs of mine.yaml are pending (Resources), after" in str(error.value)
        there.scale(1)
        Patience("mine", client, Jobs(1, PENDING), 60, ignore).first(1)


def test_jobs_that_never_start_end_the_wait_at_once_and_other_jobs_start() -> None:
    with cluster(0) as there, Client(there) as client:
        for queue, words in (
            (HOPELESS, "PartitionConfig"),
            (GONE, "(cancelled; the last line of their log: No module"),
        ):
            with told("deploy/waiting.py:Patience.first SchedulerError") as error:
                Patience("mine", client, Jobs(2, queue), 60, ignore).first(1)
            assert words in str(error.value)
        there.scale(1)
        Patience("mine", client, Jobs(1, {**PENDING, "running": 1}), 60, ignore).first(1)


def test_work_whose_jobs_are_all_cancelled_stops_and_goes_on_with_new_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "_COUNT_SECONDS", 0.1)
    with cluster() as there, Client(there) as client:
        gone = "All jobs of the cluster of slurm.yaml have left the queue (cancelled)."
        executor = DaskExecutor(lambda: Connection(client, 1, lambda: None, owned=True, ended=lambda: gone))
        executor.start()
        there.scale(0)
        client.cluster.sync(client.cluster._correct_state)
        with told("executors/dask.py:DaskExecutor._count SchedulerError") as error:
            list(executor.run(abs, [-1, -2]))
        assert gone in str(error.value)
        there.scale(1)
        assert sorted(result for _, result in executor.run(abs, [-1, -2])) == [1, 2]


def test_the_right_address_of_a_scheduler_with_workers_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_SERVER_TIMEOUT", 0.5)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with told("deploy/connect.py:attach SchedulerError"):
        run_of(tmp_path, scheduler=f"tcp://127.0.0.1:{port}").encode()
    monkeypatch.undo()
    with cluster() as there, run_of(tmp_path, scheduler=there.scheduler_address) as run:
        assert run.encode().accepted == 4


def written_certificate(path: Path, end: datetime) -> Path:
    """A certificate with its key in one file, valid until `end`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dask")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(end - timedelta(days=30)).not_valid_after(end)
    kinds = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    text = key.private_bytes(serialization.Encoding.PEM, *kinds)
    path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + text)
    return path


def test_a_scheduler_whose_certificate_is_renewed_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "_SERVER_TIMEOUT", 1.0)
    now = datetime.now(UTC)
    old, new = (written_certificate(tmp_path / f"{n}.pem", now + timedelta(days=n)) for n in (-1, 30))

    def settings(file: Path) -> dict[str, Any]:
        names = ("ca-file", "client.cert", "client.key", "scheduler.cert", "scheduler.key", "worker.cert", "worker.key")
        return {f"distributed.comm.tls.{name}": str(file) for name in names}

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(old)
    with socket.create_server(("127.0.0.1", 0)) as listener, dask.config.set(settings(old)):
        threading.Thread(target=_shake_hands, args=(listener, server), daemon=True).start()
        with told("deploy/connect.py:attach SchedulerError") as error:
            run_of(tmp_path / "run", scheduler=f"tls://127.0.0.1:{listener.getsockname()[1]}").encode()
    assert "certificate has expired" in str(error.value)
    place = {"protocol": "tls://", "host": "127.0.0.1", "dashboard_address": ":0", "processes": False}
    with (
        dask.config.set(settings(new)),
        LocalCluster(n_workers=1, security=Security(), **place) as there,
        run_of(tmp_path / "run", scheduler=there.scheduler_address) as run,
    ):
        assert run.encode().accepted == 4


def _shake_hands(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Answer as a scheduler does until the certificates are compared."""
    with suppress(OSError):
        while True:
            one, _ = listener.accept()
            with suppress(OSError), context.wrap_socket(one, server_side=True):
                pass


def test_workers_are_free_when_the_other_training_has_ended_and_others_are_at_once() -> None:
    def free(client: Client) -> bool:
        with sole_use(client, lambda: False, 0.0):
            return True

    with cluster(0) as here, Client(here) as one, cluster(0) as there, Client(there) as two:
        with sole_use(one, lambda: False, 0.0):
            with told("launch/sole_use.py:sole_use SchedulerError"):
                free(one)
            assert free(two)
        assert free(one)


def test_the_same_command_runs_when_there_are_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "FIRST_WORKER_SECONDS", 0.2)
    with cluster(0) as there, Client(there, set_as_default=False) as client:
        run = run_of(tmp_path, client=client)
        with told("executors/dask.py:DaskExecutor.start SchedulerError"):
            run.encode()
        there.scale(1)
        client.wait_for_workers(1)
        assert run.encode().accepted == 4


def test_a_run_without_workers_says_so_and_the_same_command_continues_with_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_executor, "NO_WORKERS_SECONDS", 0.3)
    monkeypatch.setattr(dask_executor, "_COUNT_SECONDS", 0.05)
    monkeypatch.setattr("daskt2i.retries.TELL_WAIT_SECONDS", 0.1)
    monkeypatch.setattr("daskt2i.encode.chunks.standstill._LOOK_SECONDS", 0.02)
    workflow = small_settings(rows=24, rows_per_chunk=4)
    events: list[Any] = []
    with cluster() as there, Client(there, set_as_default=False) as client:

        def leave(event: Any) -> None:
            events.append(event)
            if isinstance(event, ChunkDone):
                there.scale(0)

        with told("executors/dask.py:DaskExecutor._count SchedulerError"):
            run_of(tmp_path, workflow=workflow, client=client, progress=leave).encode()
        waits = [event for event in events if isinstance(event, Waiting)]
        assert waits
        assert waits[0].what == "workers: the scheduler has none"
        there.scale(1)
        client.wait_for_workers(1)
        assert run_of(tmp_path, workflow=workflow, client=client).encode().accepted == 24


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_the_same_command_goes_on_when_the_cluster_is_started_again(tmp_path: Path) -> None:
    workflow = small_settings(rows=24, rows_per_chunk=4)
    with cluster() as there:

        def stop(event: Any) -> None:
            if isinstance(event, ChunkDone):
                there.close()

        gone = run_of(tmp_path, workflow=workflow, scheduler=there.scheduler_address, progress=stop)
        with told("executors/dask.py:DaskExecutor._next SchedulerError"), gone:
            gone.encode()
    with cluster() as again, run_of(tmp_path, workflow=workflow, scheduler=again.scheduler_address) as run:
        result = run.encode()
    assert result.accepted == 24
    assert result.skipped >= 1


class Versioned(FakeImageEncoder):
    """Its weights are what a file says."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)

    def info(self, resolution: int) -> Any:
        import dataclasses

        return dataclasses.replace(super().info(resolution), weights=self.file.read_text())


def test_the_same_weights_on_driver_and_workers_encode(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_text("one")
    workflow = small_settings(image={"class": f"{__name__}.Versioned", "file": str(file)})

    def change(event: Any) -> None:
        if isinstance(event, PlanReady):
            file.write_text("two")

    with told("encode/model_cache.py:_load ModelError"):
        run_of(tmp_path / "run", workflow=workflow, scheduler="serial", progress=change).encode()
    assert run_of(tmp_path / "run", workflow=workflow, scheduler="serial").encode().accepted == 4


# Ranks.


class DyingOnce(LocalRankSpawner):
    """Its first rank dies, and the second finishes. Neither does anything."""

    died = False

    def start(self, node: WorkerNode, spec: RankSpec, launch: str) -> None:
        assert self._put is not None
        for event in ({"kind": "rendezvous", "port": 0}, {"kind": "alive"}):
            self._put(Message(launch, spec.rank, event))
        self._put(Message(launch, spec.rank, Ended("finished" if self.died else "died", "exit code 1")))
        self.died = True


def test_a_rank_is_started_as_the_message_says_and_the_same_command_goes_on() -> None:
    with told("launch/rank.py:job ConfigError"):
        rank.job()
    spawner = DyingOnce(1)
    with told("launch/launcher.py:launch RankLost"):
        launch("rank_modules.ddp", {}, spawner, 1, 1, ignore, attempts=1)
    assert launch("rank_modules.ddp", {}, spawner, 1, 1, ignore, attempts=1).ranks == 1


# Where a run folder lies.


@pytest.fixture
def nobody() -> Iterator[None]:
    """This process without the rights of root, which may write anywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_another_folder_and_the_right_to_write_help(nobody: None) -> None:
    if not os.access(tempfile.gettempdir(), os.W_OK, effective_ids=True):
        pytest.skip("the folder for temporary files is for one user alone")
    with tempfile.TemporaryDirectory() as place:
        closed, other = Path(place, "closed"), Path(place, "other")
        closed.mkdir(mode=0o500)
        with told("store/run_folder.py:RunFolder.explaining StoreError"):
            RunFolder(closed).write("a", b"x")
        RunFolder(other).write("a", b"x")
        closed.chmod(0o700)
        RunFolder(closed).write("a", b"x")
        assert RunFolder(closed).read("a") == b"x"


def test_a_bucket_that_is_there_and_credentials_help(monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    servers = pytest.importorskip("moto.server")
    server = servers.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    place = "s3://made-later/run"  # the buckets of other tests in this process are there already
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    for name in keys:
        monkeypatch.delenv(name, raising=False)
    try:
        s3fs.S3FileSystem.clear_instance_cache()
        with told("store/run_folder.py:RunFolder.explaining ConfigError"):
            RunFolder(place).write("a", b"x")
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        with told("store/run_folder.py:RunFolder.explaining StoreMissing"):
            RunFolder(place).write("a", b"x")
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("made-later")
        RunFolder(place).write("a", b"x")
        assert RunFolder(place).read("a") == b"x"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


def test_an_autoencoder_is_written_when_the_images_are_back(tmp_path: Path) -> None:
    from train.test_autoencoder_rank import fit, job_of

    folder = write_coco(tmp_path)
    (folder / "images").rename(folder / "away")
    (folder / "images" / "others").mkdir(parents=True)
    job = job_of(tmp_path / "run", coco_source(folder), steps=1, batch=2, validation=2)
    with told("train/autoencoder_rank.py:Autoencoder._scale SourceError"):
        fit(job)
    (folder / "images" / "others").rmdir()
    (folder / "images").rmdir()
    (folder / "away").rename(folder / "images")
    assert fit(job)


def test_the_scheduler_serial_works_where_no_semaphore_can_be_made(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    require_semaphores("multiprocessing")
    with told("executors/shared_memory.py:require_semaphores ExecutorError"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))  # a semaphore is a file in shared memory
        try:
            require_semaphores("multiprocessing")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert daskt2i.Run(small_settings(), tmp_path, scheduler="serial", progress=False).encode().accepted == 4


def test_a_worker_that_fits_or_another_setting_makes_the_stage_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_executor, "FIRST_WORKER_SECONDS", 0.2)
    with cluster() as there, Client(there, set_as_default=False) as client:
        run = run_of(tmp_path / "a", client=client, settings={"run.only": "gpu"})
        with told("deploy/only.py:Only.required SchedulerError") as error:
            run.encode()
        assert "no worker with a GPU" in str(error.value)
        there.worker_spec["with"] = {
            **there.new_spec,
            "options": {**there.new_spec["options"], "resources": {"GPU": 1}},
        }
        there.sync(there._correct_state)
        client.wait_for_workers(2)
        assert run.encode().accepted == 4
        assert run_of(tmp_path / "b", client=client, settings={"run.only": "all"}).encode().accepted == 4


def test_a_pool_encodes_with_all_its_workers(tmp_path: Path) -> None:
    with told("session/schedulers.py:refuse_only ConfigError"):
        run_of(tmp_path, scheduler="serial", settings={"run.only": "gpu"}).encode()
    with told("session/schedulers.py:refuse_only ConfigError"):
        run_of(tmp_path, scheduler="serial", settings={"launch.only": "gpu"}).train_vae()
    assert run_of(tmp_path, scheduler="serial", settings={"run.only": "all"}).encode().accepted == 4
