"""Runs seen from outside, whatever a crash left in their folders."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from napari_deepretina.errors import UserError
from napari_deepretina.training.machine import in_one_line
from napari_deepretina.training.watch import RunWatch

START = json.dumps({"event": "start", "step": 0, "total": 40, "device": "cpu"})
END = json.dumps({"event": "end", "step": 40, "finished": True})


@pytest.mark.parametrize(
    "torn",
    ["", "{", '{"event": "train", "st', "null", "7", "[]", '{"event": "train", "step": 3}', '{"step": 1}',
     '{"event": "start", "step": "x", "total": 1, "device": "cpu"}', "\xff\x00", "[" * 50_000],
)  # fmt: skip
def test_a_torn_line_is_passed_over(tmp_path, torn):
    (tmp_path / "events.jsonl").write_text(f"{START}\n{torn}\n{END}\n", "latin-1")
    watch = RunWatch(tmp_path)
    watch.poll()
    assert (watch.status, watch.total, watch.step) == ("finished", 40, 40)


def test_a_run_that_the_system_ended_is_said_to_lack_memory(tmp_path):
    watch = RunWatch(tmp_path)
    watch.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (tmp_path / "log.txt").write_text("train 3 loss 1.2\n")
    watch.process.kill()
    watch.process.wait()
    watch.poll()
    assert watch.status == "lost"
    assert "memory runs out" in watch.reason


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_process_that_prepares_crops_and_is_ended_is_named():
    def read(_):
        os.kill(os.getpid(), signal.SIGKILL)

    loader = torch.utils.data.DataLoader(
        [0, 1], num_workers=1, collate_fn=read, multiprocessing_context="fork"
    )
    with pytest.raises(UserError, match="prepares crops: there is not enough memory"), in_one_line():
        next(iter(loader))
