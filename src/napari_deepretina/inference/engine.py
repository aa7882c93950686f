"""Where the work on many tiles, planes and images is done: threads of this process, or a cluster."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from napari_deepretina.errors import UserError, out_of_memory
from napari_deepretina.files import written_whole
from napari_deepretina.inference.device import resolve_device
from napari_deepretina.intake import read_bytes
from napari_deepretina.model.difference import base_file
from napari_deepretina.model.weights import LoadedModel, load_model, read_info, sha256_of

Key = TypeVar("Key")
R = TypeVar("R")
Work = Callable[[LoadedModel, Any], R]
"""Done for each item; a function of a module, or a partial of one, for it may travel."""

FEW_CORES, MOST_STREAMS = 4, 8
"""Up to so many cores each has a network of its own; beyond, trials tell how many networks run side by side,
so many at most, for each takes memory."""
NO_MEMORY = "there is not enough memory for it: close other programs, or give smaller tiles (--tile 512)"
CHECK_EVERY, AWAY = 1.0, 60.0
"""Seconds between two looks at a cluster that does not answer, and those after which it is given up."""
LOST = "the cluster at {} was lost: what is done is kept, go on when it is there again (--resume)"
PATIENCE = 10.0
"""Seconds that a scheduler may take to answer."""


@dataclass(frozen=True)
class Engine:
    """Does one piece of work for each of many items.

    Attributes
    ----------
    executor : takes the calls.
    model : what stands for the network in a call: itself, or where the cluster keeps it.
    ahead : calls that are in flight at most; what they hold is in memory.
    batch : how many small images of so many megapixels are worth a common call.
    """

    executor: Executor
    model: Any
    ahead: int
    batch: Callable[[float], int] = lambda megapixels: 1
    _call: Callable[..., Any] = lambda work, model, item: work(model, item)
    _check: Callable[[], None] | None = None

    def map(
        self, work: Work[R], items: Iterable[tuple[Key, Any | UserError]]
    ) -> Iterator[tuple[Key, R | UserError]]:
        """Answers as they come, in any order; errors for a person are answers too.

        Items are taken while others are worked on: an iterator that decodes images does so ahead of the
        network, but never further than `ahead`.
        """
        flying: dict[Future[R], Key] = {}
        try:
            for key, item in items:
                if isinstance(item, UserError):
                    yield key, item
                    continue
                flying[self.executor.submit(self._call, work, self.model, item)] = key
                while len(flying) >= self.ahead:
                    yield from self._landed(flying)
                yield from self._landed(flying, at_once=True)
            while flying:
                yield from self._landed(flying)
        finally:
            for future in flying:
                future.cancel()

    def _landed(
        self, flying: dict[Future[R], Any], *, at_once: bool = False
    ) -> Iterator[tuple[Any, R | UserError]]:
        """Answers of those calls that are done; waits for one unless `at_once`."""
        most = 0.0 if at_once else None if self._check is None else CHECK_EVERY
        done, _ = wait(flying, timeout=most, return_when=FIRST_COMPLETED)
        if not done and not at_once and self._check is not None:
            self._check()
        for future in done:
            key = flying.pop(future)
            try:
                yield key, future.result()
            except UserError as error:
                yield key, error
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                yield key, UserError(NO_MEMORY)


@contextmanager
def threads(model: LoadedModel) -> Iterator[Engine]:
    """Here: several networks side by side on a CPU, each with its share of the cores; one on a GPU."""
    import torch

    from napari_deepretina.inference.card import room_on

    _ = model.detector  # made once, before several threads ask for it
    cores = torch.get_num_threads()
    streams = streams_of(model, cores) if model.device.type == "cpu" else 1
    # set_num_threads is each thread's own matter, but also what new threads start with
    pool = ThreadPoolExecutor(streams, "segment", torch.set_num_threads, (max(1, cores // streams),))
    try:
        yield Engine(pool, model, streams + 2, room_on(model.device).most)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


def streams_of(model: LoadedModel, cores: int) -> int:
    """How many networks side by side look at most images a second on so many cores of a CPU.

    Where cores are few, one each: a network with a core of its own never waits. Where they are many, memory
    may be what is short, and how soon differs between machines: it is tried, once for each model.
    """
    if cores <= FEW_CORES:
        return cores
    tried = model.sha256, model.precision, cores
    if tried not in _TRIED:
        choices = [s for s in (1, 2, 4, MOST_STREAMS) if s <= cores]
        _TRIED[tried] = max(choices, key=lambda s: _looks_a_second(model, s, cores))
    return _TRIED[tried]


_TRIED: dict[tuple[str, str, int], int] = {}
_TRIAL = 256
"""Side of the image of a trial: small enough to take no time, large enough to need memory."""


def _looks_a_second(model: LoadedModel, streams: int, cores: int) -> float:
    """Images a second of so many networks side by side, on all cores together."""
    import torch

    from napari_deepretina.inference.steps import drain
    from napari_deepretina.model.architecture import Limits

    def look(_: object) -> None:
        drain(model.detector.detect(image, Limits(detections=50)))

    image = torch.rand(1, 3, _TRIAL, _TRIAL, generator=torch.Generator().manual_seed(0))
    try:
        with ThreadPoolExecutor(streams, "trial", torch.set_num_threads, (max(1, cores // streams),)) as pool:
            list(pool.map(look, range(streams)))  # warms up
            begun = time.perf_counter()
            list(pool.map(look, range(2 * streams)))
            return 2 * streams / (time.perf_counter() - begun)
    finally:
        torch.set_num_threads(cores)


@dataclass(frozen=True)
class _Packed:
    """Weights as they travel.

    Attributes
    ----------
    files : name and content of the weights' own file, of those that it differs from, and of the specialist.
    identity : as of the model.
    device, precision : for the workers.
    """

    files: tuple[tuple[str, bytes], ...]
    identity: str
    device: str
    precision: str

    @classmethod
    def of(cls, model: LoadedModel, device: str, precision: str) -> Self:
        """A model's file; UserError if the model is in none."""
        if sha256_of(model.path) != model.sha256:
            raise UserError(f"{model.info.name} is in no file that a cluster could be given: write it first")
        paths, info = [model.path], model.info
        while info.differs_from is not None:
            paths.append(base_file(paths[-1], info))
            info = read_info(paths[-1])
        paths += [model.beside.path] if model.beside else []
        files = tuple((path.name, read_bytes(path)) for path in paths)
        return cls(files, model.identity, device, precision)


@contextmanager
def cluster(
    model: LoadedModel, address: str, device: str = "auto", precision: str = "auto"
) -> Iterator[Engine]:
    """A dask.distributed cluster: weights go to each worker once, a task lost with its worker is done again.

    Parameters
    ----------
    model : its file is what travels.
    address : of the scheduler, ``tcp://host:8786``.
    device, precision : for the workers; each resolves them on its own machine.

    Raises
    ------
    UserError
        If dask.distributed is not installed, the scheduler does not answer or has no workers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UserError(
            "a cluster (--scheduler) needs dask.distributed: pip install 'napari-deepretina[cluster]'"
        ) from None
    # As dask's default, a client that never gets through would keep every later read of an array waiting.
    connect = partial(Client, address, timeout=PATIENCE, set_as_default=False)
    with _connected(connect, address) as client, _loss_told(address):
        workers = client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            raise UserError(
                f"the scheduler at {address} has no workers; start some with 'dask worker {address}'"
            )
        packed = _Packed.of(model, device, precision)
        sent = client.scatter(packed, broadcast=True, hash=False)
        slots = sum(w["nthreads"] for w in workers.values())
        executor, check = client.get_executor(pure=False), _Heartbeat(client).check
        yield Engine(executor, sent, 2 * slots + 2, _call=_on_a_worker, _check=check)


class _Heartbeat:
    """Whether scheduler and workers of a client are still there; they may be away for a while."""

    def __init__(self, client: Any) -> None:
        self._client, self._seen = client, time.monotonic()

    def check(self) -> None:
        """TimeoutError if there was no worker for `AWAY` seconds."""
        if self._client.status == "running" and self._client.scheduler_info(n_workers=-1)["workers"]:
            self._seen = time.monotonic()
        elif self._client.status == "closed" or time.monotonic() - self._seen > AWAY:
            raise TimeoutError(f"no worker was there for {AWAY:.0f} s")


def _connected(connect: Callable[[], Any], address: str) -> Any:
    """A client; UserError if none comes about in time, for to some servers it would try for ever."""
    made: Future[Any] = Future()

    def attempt() -> None:
        try:
            made.set_result(connect())
        except BaseException as error:
            made.set_exception(error)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        return made.result(PATIENCE + 2)
    except Exception as error:
        # distributed raises all sorts of types for what is no scheduler.
        reason = str(error) or "what answers there is something else"
        raise UserError(f"no dask scheduler answers at {address}: {reason}") from None


@contextmanager
def _loss_told(address: str) -> Iterator[None]:
    """What distributed raises when scheduler or workers are gone becomes a UserError."""
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except (CancelledError, OSError, TimeoutError) as error:
        raise UserError(f"{LOST.format(address)} ({str(error) or type(error).__name__})") from None
    except Exception as error:
        if not type(error).__module__.startswith("distributed"):
            raise
        raise UserError(f"{LOST.format(address)} ({str(error)[:120]})") from None


_HERE: dict[tuple[str, str, str], LoadedModel] = {}
_ONE_AT_A_TIME = threading.Lock()


def _on_a_worker(work: Work[R], packed: _Packed, item: Any) -> R:
    """Do the work with a network that this process builds once."""
    key = (packed.identity, packed.device, packed.precision)
    with _ONE_AT_A_TIME:
        if key not in _HERE:
            _HERE.clear()
            _HERE[key] = _unpacked(packed)
    return work(_HERE[key], item)


def _unpacked(packed: _Packed) -> LoadedModel:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name, content in packed.files:
            with written_whole(Path(folder) / name) as part:
                part.write_bytes(content)
        first = Path(folder) / packed.files[0][0]
        model = load_model(first, resolve_device(packed.device), packed.precision)
        model.for_tissue()  # while its file is there
        return model


def networks_here() -> tuple[int, list[str]]:
    """Process id, and hashes of the weights that this process holds for a cluster: for the curious."""
    return os.getpid(), [identity.partition("+")[0] for identity, *_ in _HERE]
