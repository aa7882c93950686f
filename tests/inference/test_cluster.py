"""Beyond one machine: a dask.distributed cluster of two processes."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time

import dask.array
import pytest
import tifffile

from napari_deepretina.cli import main
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.inference.engine import cluster, networks_here

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:distributed"),
]


@pytest.fixture(scope="module")
def scheduler():
    """Address of a scheduler with two workers without nannies: a killed one stays dead."""
    with distributed.LocalCluster(
        n_workers=0, dashboard_address=None, processes=True, host="127.0.0.1", silence_logs=50
    ) as local:
        address = local.scheduler_address
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        workers = [
            subprocess.Popen(
                [*command, "--no-nanny", "--no-dashboard"],
                **quiet,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for _ in range(2)
        ]
        try:
            with distributed.Client(address) as client:
                client.wait_for_workers(2, timeout=60)
            yield address
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


@pytest.fixture
def scheduler_of_its_own(tmp_path):
    """Address of a scheduler with one worker, and both processes."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    file = tmp_path / "scheduler.json"
    start = [sys.executable, "-m"]
    words = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    processes = [subprocess.Popen([*start, *words, "--scheduler-file", str(file)], **quiet)]
    try:
        while not file.exists() or not file.stat().st_size:
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        words = ["distributed.cli.dask_worker", address, "--no-nanny", "--no-dashboard", "--nthreads", "1"]
        processes.append(subprocess.Popen([*start, *words], **quiet))
        with distributed.Client(address) as client:
            client.wait_for_workers(1, timeout=60)
        yield address, processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def slowly(model, item):
    """A piece of work that can be killed in its midst."""
    time.sleep(0.3)
    return os.getpid(), item * 2


def test_tiles_and_images_on_a_cluster_give_the_same(scheduler, tmp_path, nuclei_model):
    folder = tmp_path / "in"
    folder.mkdir()
    tifffile.imwrite(folder / "slide.tif", synthetic_nuclei((900, 900), 150, diameter=26, seed=4)[0])
    for i in range(4):
        tifffile.imwrite(folder / f"f{i}.tif", synthetic_nuclei((100, 120), 8, diameter=26, seed=i)[0])
    (folder / "broken.tif").write_bytes(b"II")
    command = ["segment", str(folder), "--tile", "256", "--device", "cpu", "--precision", "float32"]
    command += ["--weights", "nuclei-small"]
    assert main([*command, "--out", str(tmp_path / "far"), "--scheduler", scheduler]) == 2  # the broken one
    assert main([*command, "--out", str(tmp_path / "near")]) == 2
    for name in ("slide", "f0", "f1", "f2", "f3"):
        far, near = (tifffile.imread(tmp_path / w / f"{name}.tif") for w in ("far", "near"))
        assert far.max() == near.max() > 2
        assert (far != near).mean() < 1e-3
    assert len(json.loads((tmp_path / "far" / "run.json").read_text())["skipped"]) == 1
    # each worker built one network, from weights that were sent to it
    with distributed.Client(scheduler) as client:
        held = client.run(networks_here)
    assert len(held) == 2
    assert all(hashes == [nuclei_model.sha256] for _, hashes in held.values())
    assert os.getpid() not in {pid for pid, _ in held.values()}


def test_a_worker_that_dies_costs_its_task_only(scheduler, nuclei_model):
    with cluster(nuclei_model, scheduler) as engine:
        pids, answers = set(), {}
        for key, (pid, answer) in engine.map(slowly, ((k, k) for k in range(16))):
            if not pids:
                os.kill(pid, signal.SIGKILL)
            pids.add(pid)
            answers[key] = answer
    assert answers == {k: 2 * k for k in range(16)}
    assert len(pids) == 2


def test_what_answers_and_is_no_scheduler(tmp_path, tiny_weights, monkeypatch, capsys):
    """A web server takes the connection and never speaks as a scheduler does."""
    monkeypatch.setattr("napari_deepretina.inference.engine.PATIENCE", 0.5)
    tifffile.imwrite(tmp_path / "a.tif", synthetic_nuclei((64, 64), 2, diameter=20, seed=0)[0])
    words = [
        "segment",
        str(tmp_path / "a.tif"),
        "--out",
        str(tmp_path / "out"),
        "--weights",
        str(tiny_weights),
    ]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert main([*words, "--scheduler", f"tcp://127.0.0.1:{server.server_port}"]) == 2
        server.shutdown()
    (line,) = capsys.readouterr().err.splitlines()
    assert "no dask scheduler answers" in line
    assert dask.array.ones(4, chunks=2).sum().compute() == 4  # here, and not where nobody answers


def test_a_cluster_that_is_lost_is_one_sentence(scheduler_of_its_own, nuclei_model, monkeypatch):
    monkeypatch.setattr("napari_deepretina.inference.engine.AWAY", 1.0)
    address, processes = scheduler_of_its_own
    answers = []

    def go():
        with cluster(nuclei_model, address, "cpu") as engine:
            for key, _ in engine.map(slowly, ((k, k) for k in range(40))):
                answers.append(key)
                for process in processes:
                    process.kill()

    with pytest.raises(UserError, match="was lost: what is done is kept"):
        go()
    assert 1 <= len(answers) < 40
