"""Documents on disk: what was saved comes back, whatever cut the writing short."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from napari_deepretina.document import Document
from napari_deepretina.document.store import MAGIC, Autosave, load, save
from napari_deepretina.errors import UserError
from tests.document.test_document import EVERYTHING, KINDS, START, STRICT, begun, content, deed, stack


def some_steps(document, seed=0, count=40):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        try:
            deed(document, rng, str(rng.choice(KINDS)))
        except UserError:
            continue
        yield


@pytest.mark.parametrize("make", [begun, stack])
def test_a_saved_document_comes_back_and_goes_on(make, tmp_path):
    document = make()
    for _ in some_steps(document):
        pass
    save(document, tmp_path / "a.nuclei", {"image": "a"})
    again, told = load(tmp_path / "a.nuclei")
    assert told == {"image": "a"}
    assert content(again) == content(document)
    assert again.known()["state"].tolist() == document.known()["state"].tolist()
    for each in (document, again):  # ids that a detection once had stay its own
        for index in each.planes:
            each.retune(EVERYTHING, index)
    assert content(again) == content(document)
    assert again.new_id() == document.new_id()


@pytest.mark.parametrize("make", [begun, stack])
@pytest.mark.parametrize("seed", range(4))
def test_autosave_follows_every_step(make, seed, tmp_path):
    document = make()
    keeper = Autosave(document, tmp_path / "a.nuclei")
    assert keeper.write() is None
    assert not keeper.path.exists()
    for number, _ in enumerate(some_steps(document, seed)):
        if number % 3 == 0 and (written := keeper.write()) is not None:
            written.result()
            assert content(load(keeper.path)[0]) == content(document)
    keeper.close()
    again = load(keeper.path)[0]
    assert content(again) == content(document)
    for each in (document, again):
        while each.undo() is not None:
            pass
    assert content(again) == content(document)


def test_a_file_cut_off_anywhere_is_read_up_to_the_last_whole_step(tmp_path):
    document = begun()
    keeper = Autosave(document, tmp_path / "a.nuclei")
    states, sizes = [], []
    for label in document.present[:4].tolist():
        document.delete(label)
        keeper.write().result()
        states.append(content(document))
        sizes.append(keeper.path.stat().st_size)
    whole = keeper.path.read_bytes()
    cut = tmp_path / "cut.nuclei"
    for size in [*sizes, *(s - 1 for s in sizes[1:]), *(s + 5 for s in sizes[:-1])]:
        cut.write_bytes(whole[:size])
        assert content(load(cut)[0]) == states[np.searchsorted(sizes, size, side="right") - 1]
    damaged = bytearray(whole)
    damaged[sizes[1] + 40] ^= 255
    cut.write_bytes(damaged)
    assert content(load(cut)[0]) == states[1]


@pytest.mark.parametrize("text", [b"", b"{}", MAGIC, MAGIC + b"\0" * 40, MAGIC[:-2]])
def test_other_files_are_refused_in_a_sentence(text, tmp_path):
    path = tmp_path / "a.nuclei"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"a\.nuclei"):
        load(path)
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "nothing.nuclei")


def test_a_folder_that_cannot_be_written_to_is_an_error_of_the_future(tmp_path):
    (tmp_path / "file").touch()
    document = begun()
    keeper = Autosave(document, tmp_path / "file" / "a.nuclei")
    document.delete(int(document.present[0]))
    with pytest.raises(UserError, match="cannot be written"):
        keeper.write().result()


def test_after_a_full_disk_the_file_is_whole_again(tmp_path, monkeypatch):
    document = begun()
    keeper = Autosave(document, tmp_path / "a.nuclei")

    def full(*_):
        raise OSError(28, "No space left on device")

    for broken in ("os.replace", "os.fsync"):
        document.delete(int(document.present[0]))
        with monkeypatch.context() as patched:
            patched.setattr(broken, full)
            with pytest.raises(UserError, match="No space left"):
                keeper.write().result()
        document.delete(int(document.present[0]))
        keeper.write().result()
        assert content(load(keeper.path)[0]) == content(document)


def test_killed_in_the_midst_of_editing_nothing_older_than_the_last_write_is_lost(tmp_path):
    """A process of its own deletes nuclei, writes each step and is killed with SIGKILL."""
    script = f"""
import json, sys
from pathlib import Path
from tests.document.test_document import begun
from napari_deepretina.document.store import Autosave
document = begun()
keeper = Autosave(document, Path({str(tmp_path)!r}) / "a.nuclei")
while True:
    label = int(document.present[0])
    for step in (document.delete, lambda _: document.undo(), document.delete):
        step(label)
        keeper.write().result()
    print(json.dumps(document.present.tolist()), flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            reported = json.loads(process.stdout.readline())
        time.sleep(0.01)
        process.kill()
        rest = process.stdout.read().splitlines()
    last = json.loads(rest[-1]) if rest else reported
    present = load(tmp_path / "a.nuclei")[0].present.tolist()
    assert set(present) <= set(last) | {min(set(last), default=0)}
    assert len(present) >= len(last) - 1


def test_labels_alone_are_a_document_too(tmp_path):
    labels = np.zeros((9, 9), np.int32)
    labels[2:4, 2:4] = 5
    document = Document(labels, STRICT, {}, classes=("a", "b"))
    save(document, tmp_path / "a.nuclei")
    again, _ = load(tmp_path / "a.nuclei")
    assert content(again) == content(document)
    assert again.classes == ("a", "b")
    assert again.settings == STRICT != START
