"""Commands that are killed as by SIGKILL, at any of the moments at which they change what lies on the disk.

Each command runs in a process of its own, forked from one that has imported everything.
"""

import contextlib
import io
import multiprocessing
import os
import signal
import sys

PRELOADED = [
    "napari_deepretina.cli", "napari_deepretina.inference.batch", "napari_deepretina.training.run",
    "napari_deepretina.training.fit", "torch.utils.tensorboard", "pandas",
]  # fmt: skip
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _changes_something(event, arguments, below):
    if event == "open":
        path, mode, flags = arguments
        writes = bool(flags & _WRITING) if mode is None else bool(set("wax+") & set(mode))
        return writes and isinstance(path, str) and path.startswith(below)
    return event in CHANGES and str(arguments[0]).startswith(below)


def _child(words, below, moment, sent):
    """Run a command; end as by SIGKILL before its change number `moment` below a folder."""
    import torch

    torch.set_num_threads(1)
    count = 0

    def watch(event, arguments):
        nonlocal count
        if _changes_something(event, arguments, below):
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    from napari_deepretina.cli import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = main(words)
    sent.send((status, count, printed.getvalue()))
    sent.close()
    os._exit(0)


class Crashing:
    """Runs commands in processes that start quickly."""

    def __init__(self):
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    def run(self, words, below, moment=0):
        """Status, number of changes below a folder, and what was printed; None if it was killed."""
        received, sent = self._context.Pipe(duplex=False)
        arguments = ([str(w) for w in words], str(below), moment, sent)
        process = self._context.Process(target=_child, args=arguments)
        process.start()
        sent.close()
        try:
            told = received.recv()
        except EOFError:
            told = None
        process.join()
        assert (told is None) == (process.exitcode == -signal.SIGKILL), process.exitcode
        return told
