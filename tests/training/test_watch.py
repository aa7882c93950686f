"""Runs seen from outside, whatever a crash left in their folders."""

import json

import pytest

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
