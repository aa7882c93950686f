"""Some broken inputs for every reader, always the same; tests/fuzz.py says how to search for longer."""

import pytest

from tests import fuzz


@pytest.mark.parametrize("name", fuzz.READERS)
def test_broken_input_is_read_or_refused(name, tmp_path):
    assert fuzz.search(name, 12, tmp_path / "x") > 0


@pytest.mark.parametrize("name", fuzz.READERS)
def test_good_input_is_read(name, tmp_path):
    """So that what is refused is refused for what was broken."""
    import json

    made, read = fuzz.READERS[name]
    for number, good in enumerate(made()):
        folder = tmp_path / str(number)
        folder.mkdir()
        file_name, content = good if name in fuzz.BYTES else ("x.json", json.dumps(good).encode())
        path = folder / file_name.replace("/", "|")
        path.write_bytes(content)
        read(path)


def test_the_search_finds_what_is_wrong(tmp_path, monkeypatch):
    def careless(path):
        if b"\xff\xff" in path.read_bytes():
            raise IndexError

    monkeypatch.setitem(fuzz.READERS, "split", (fuzz.splits, careless))
    monkeypatch.setitem(fuzz.BYTES, "split", (lambda: [("a", bytes(20))], careless))
    monkeypatch.setitem(fuzz.READERS, "split", fuzz.BYTES["split"])
    with pytest.raises(IndexError):
        fuzz.search("split", 300, tmp_path / "x")
