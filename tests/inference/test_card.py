"""A graphics card's memory, with a stand-in for the card."""

import pytest
import torch

from napari_deepretina.inference import card
from napari_deepretina.inference.card import MOST, UNTRIED, Room, downloaded, room_on, uploaded
from napari_deepretina.model.regions import Detections


class Card:
    """Memory that fills and empties as it is told to."""

    def __init__(self, size):
        self.size, self.held, self.peak = size, 0, 0

    def free(self):
        return self.size - self.held

    def begin(self):
        self.before = self.peak = self.held

    def used(self):
        return self.peak - self.before

    def look(self, amount):
        self.peak = max(self.peak, self.held + amount)


def test_batches_are_as_large_as_what_earlier_ones_took_allows():
    memory = Card(10_000)
    room = Room(memory)
    assert room.most(1.0) == UNTRIED
    with room.measured(megapixels=2.0):
        memory.look(1_000)
    assert room.most(1.0) == 14  # 70 % of what is free, 500 each
    assert room.most(4.0) == 3
    assert room.most(0.01) == MOST
    with room.measured(megapixels=2.0):  # a sparse image does not make it bolder
        memory.look(10)
    assert room.most(1.0) == 14
    with room.measured(megapixels=1.0):  # a crowded one makes it careful
        memory.look(4_000)
    assert room.most(1.0) == 1
    memory.held = 9_999
    assert room.most(1.0) == 1


def test_where_something_fails_nothing_is_learnt():
    memory = Card(1_000)
    room = Room(memory)
    with pytest.raises(RuntimeError), room.measured(1.0):
        raise RuntimeError("out of memory")
    assert room.most(1.0) == UNTRIED


def test_a_processor_looks_at_one_image_at_a_time():
    assert room_on(torch.device("cpu")).most(0.1) == 1


def test_a_card_is_waited_for_once(monkeypatch):
    """All tensors of a batch are asked for before anything waits."""
    log = []

    class OnCard:
        device = torch.device("cuda", 0)

        def __init__(self, values):
            self.values = values

        def to(self, where, *, non_blocking):
            log.append((where, non_blocking))
            return self.values

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append(device))
    found = [Detections(*(OnCard(torch.full((k,), float(k))) for _ in range(4))) for k in (1, 2)]
    here = downloaded(found)
    assert log == [("cpu", True)] * 8 + [torch.device("cuda", 0)]
    assert [len(d.masks) for d in here] == [1, 2]


def test_images_go_up_pinned(monkeypatch):
    log = []

    class Pinned(torch.Tensor):
        def pin_memory(self):
            log.append("pinned")
            return self

        def to(self, where, **how):
            log.append((where, how))
            return self

    images = torch.zeros(1, 3, 4, 4).as_subclass(Pinned)
    uploaded(images, torch.device("cuda", 0))
    assert log == ["pinned", (torch.device("cuda", 0), {"non_blocking": True})]
    plain = torch.zeros(2)
    assert uploaded(plain, torch.device("cpu")) is plain


def test_memory_of_a_card_is_what_the_driver_and_the_allocator_leave(monkeypatch):
    told = {"mem_get_info": (600, 1000), "memory_reserved": 300, "memory_allocated": 100,
            "reset_peak_memory_stats": None, "max_memory_allocated": 250}  # fmt: skip
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    memory = card.CudaMemory(torch.device("cuda", 0))
    memory.begin()
    assert (memory.free(), memory.used()) == (800, 150)
