"""Starting a run in a process of its own, following it through its folder, steering it, finding it again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from napari_deepretina.errors import UserError
from napari_deepretina.files import appended, protected, remove, write_text, written_whole
from napari_deepretina.intake import parse_json, read_bytes, read_text
from napari_deepretina.lock import is_at_work
from napari_deepretina.model.runs import LAST, runs_folder
from napari_deepretina.model.weights import BUNDLED, user_folder
from napari_deepretina.training.control import PAUSE, PID, STOP

LOG = "log.txt"
LESS = "take fewer crops a step, smaller ones, or keep fewer images in memory"
RESERVED = {LAST, "bundled", "random", "coco", "imagenet", "none"}
"""Names that mean something else where weights are asked for."""


def checked_name(name: str) -> str:
    """A run's name that can be the name of a folder and of weights.

    Raises
    ------
    UserError
        If it would leave the folder of runs, or stands for something else already.
    """
    name = name.strip()
    if not name or name != Path(name).name or name in (".", "..") or not name.isprintable() or "\\" in name:
        raise UserError(f"{name!r} is no name for a run: take letters, digits, dashes and spaces")
    if name.lower() in RESERVED or (BUNDLED / f"{name}.safetensors").exists():
        raise UserError(f"{name!r} stands for other weights: choose another name")
    return name


def fresh_run_name() -> str:
    """A name for a run that no run has."""
    name = time.strftime("run-%Y%m%d-%H%M")
    return name if not (runs_folder() / name).exists() else time.strftime("run-%Y%m%d-%H%M%S")


COMMAND = (sys.executable, "-m", "napari_deepretina", "train")


def forecast_run(arguments: Sequence[str]) -> str:
    """What a run with these arguments would do and take, as ``--dry-run`` tells; waits for it.

    Raises
    ------
    UserError
        With the reason why it could not run.
    """
    done = subprocess.run(
        [*COMMAND, *arguments, "--dry-run"], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        lines = [x for x in done.stderr.splitlines() if x.startswith("napari-deepretina: ")]
        raise UserError(lines[-1].removeprefix("napari-deepretina: ") if lines else "the forecast failed")
    return done.stdout.strip()


def start_run(folder: Path, arguments: Sequence[str]) -> RunWatch:
    """Start ``napari-deepretina train`` with these arguments (without ``--out``) in a process of its own.

    The process lives on when this one ends. What it prints goes to ``log.txt`` in the folder.
    """
    log = appended(folder / LOG)
    command = [*COMMAND, *arguments, "--out", str(folder)]
    earlier = RunWatch(folder)
    earlier.remember()
    with log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    write_text(folder / "command.json", json.dumps(list(arguments)))
    earlier.process = process
    return earlier


class RunWatch:
    """A run seen from outside, by what its folder holds.

    Attributes
    ----------
    curves : ``train`` and ``validation`` losses and validation ``score`` as lists of (step, value).
    status : ``starting``, ``running``, ``paused``, ``finished``, ``stopped``, ``failed`` or ``lost`` (the
        process is gone without a word).
    process : the child, if this session started it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.curves: dict[str, list[tuple[int, float]]] = {"train": [], "validation": [], "score": []}
        self.status = "starting"
        self.step = self.total = 0
        self.last: dict[str, Any] = {}
        self.reason = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._read = 0
        self._told_over = False

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        gone = self.process is None or self.process.poll() is not None
        return gone and self.status in ("finished", "stopped", "failed", "lost")

    def poll(self) -> bool:
        """Read what is new; whether there was anything."""
        before = self._read, self.status, self._told_over
        for event in self._new_events():
            self._take(event)
        if not self.over and not self._alive():
            for event in self._new_events():  # what came between reading and looking
                self._take(event)
            if not self.over:
                self.status, self.reason = "lost", self._last_words()
        self._told_over = self.over
        return (self._read, self.status, self._told_over) != before

    def remember(self) -> None:
        """Take the curves of an earlier stretch of the run, which ended; a new one is about to start."""
        for event in self._new_events():
            self._take(event)
        self.status, self.reason = "starting", ""

    def seconds_left(self) -> float | None:
        """Expected from the speed of late; None while it is not known."""
        rate, batch = self.last.get("images_per_second"), self.last.get("batch_size")
        if not rate or not batch or self.over:
            return None
        return (self.total - self.step) * float(batch) / float(rate)

    def pause(self) -> None:
        """Let the run wait after its step."""
        write_text(self.folder / PAUSE, "")

    def go_on(self) -> None:
        """End a pause."""
        remove(self.folder / PAUSE)

    def stop(self) -> None:
        """End the run after its step; it judges what it has and keeps the best."""
        write_text(self.folder / STOP, "")

    def log_tail(self, lines: int = 6) -> str:
        """The last lines of what the process printed."""
        try:
            told = read_bytes(self.folder / LOG).decode("utf-8", errors="replace")
            return "\n".join(told.splitlines()[-lines:])
        except UserError:
            return ""

    def publish(self, name: str) -> Path:
        """Put the run's best weights where Segment finds them by name; UserError if there are none."""
        name = checked_name(name)
        source = self.folder / "weights.safetensors"
        if not source.exists():
            raise UserError(f"{self.folder} holds no weights yet")
        target = user_folder() / f"{name}.safetensors"
        with protected(source), written_whole(target) as part:
            shutil.copyfile(source, part)
        return target

    def _new_events(self) -> list[dict[str, Any]]:
        try:
            with (self.folder / "events.jsonl").open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        return [event for line in whole.splitlines() if (event := _parsed(line)) is not None]

    def _take(self, event: dict[str, Any]) -> None:
        """Follow an event; one that lacks what it should have is passed over."""
        with suppress(KeyError, TypeError, ValueError):
            self._follow(event)

    def _follow(self, event: dict[str, Any]) -> None:
        kind, self.step = event["event"], int(event["step"])
        if kind == "start":
            self.status, self.total = "running", int(event["total"])
            self.last |= {"device": event["device"]}
            self.reason = ""
        elif kind == "train":
            self.status = "running"
            self.last |= {k: event[k] for k in ("images_per_second", "learning_rate", "stage", "batch_size")}
            self.curves["train"].append((self.step, event["loss"]))
        elif kind == "validation":
            self.curves["validation"].append((self.step, event["loss"]))
            self.curves["score"].append((self.step, event.get("score", event["dsb_score"])))
        elif kind == "pause":
            self.status = "paused"
        elif kind == "go_on":
            self.status = "running"
        elif kind == "error":
            self.status, self.reason = "failed", str(event["message"])
        elif kind == "end":
            self.status = "finished" if event["finished"] else "stopped"
            self.last |= {"best_step": event.get("best_step")}

    def _alive(self) -> bool:
        if self.process is not None:
            return self.process.poll() is None
        try:
            return is_at_work(read_text(self.folder / PID))
        except UserError:
            return False

    def _last_words(self) -> str:
        if self.process is not None and self.process.poll() == -signal.SIGKILL:
            return f"the system ended it, as it does where memory runs out: {LESS}"
        lines = [line for line in self.log_tail(40).splitlines() if line.strip()]
        return lines[-1].removeprefix("napari-deepretina: ") if lines else "it left no word"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """An event; None for a line that a crash tore or that something else wrote."""
    try:
        event = parse_json(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def find_running(folder: Path | None = None) -> list[RunWatch]:
    """Runs whose process is at work, the newest last."""
    found = []
    for pid in sorted((folder or runs_folder()).glob(f"*/{PID}"), key=lambda p: p.stat().st_mtime):
        watch = RunWatch(pid.parent)
        watch.poll()
        if not watch.over:
            found.append(watch)
    return found
