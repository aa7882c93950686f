"""Beyond one machine: a dask.distributed cluster of two processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tifffile

from napari_deepretina.cli import main
from napari_deepretina.data.synthetic import synthetic_nuclei
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
    command = ["segment", str(folder), "--tile", "256", "--device", "cpu"]
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
