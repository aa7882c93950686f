"""How many networks run side by side on a CPU."""

import pytest
import torch

from napari_deepretina.inference import engine
from napari_deepretina.inference.engine import streams_of, threads


@pytest.fixture(autouse=True)
def _untried(monkeypatch):
    monkeypatch.setattr(engine, "_TRIED", {})


def test_few_cores_have_a_network_each(nuclei_model, monkeypatch):
    monkeypatch.setattr(engine, "_looks_a_second", None)  # nothing is tried
    assert [streams_of(nuclei_model, cores) for cores in (1, 2, 3, 4)] == [1, 2, 3, 4]


def test_on_many_cores_trials_decide_once(nuclei_model, monkeypatch):
    speeds, tried = {1: 5.0, 2: 9.0, 4: 14.0, 8: 11.0}, []
    monkeypatch.setattr(
        engine, "_looks_a_second", lambda model, streams, cores: tried.append(streams) or speeds[streams]
    )
    assert streams_of(nuclei_model, 32) == streams_of(nuclei_model, 32) == 4
    assert tried == [1, 2, 4, 8]
    assert streams_of(nuclei_model, 6) == 4  # other cores, another trial, and never more networks than cores
    assert tried[4:] == [1, 2, 4]


def test_a_trial_runs_and_leaves_the_threads_alone(nuclei_model):
    before = torch.get_num_threads()
    assert engine._looks_a_second(nuclei_model, 2, before) > 0
    assert torch.get_num_threads() == before
    with threads(nuclei_model):
        pass
    assert torch.get_num_threads() == before
