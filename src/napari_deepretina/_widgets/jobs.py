"""Work off the GUI thread: steps become progress, exceptions become sentences."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_deepretina._widgets.safe_import import import_torch
from napari_deepretina.errors import UserError
from napari_deepretina.inference.steps import Progress
from napari_deepretina.postprocess import PostprocessSettings
from napari_deepretina.postprocess.pipeline import Postprocessor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """Why a job gave no result, as a sentence for a person."""

    message: str


class ModelCache:
    """The last network used, so that running again does not read it again."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._model: Any = None

    def get(self, weights: str, device: str, precision: str = "auto") -> Any:
        """A `LoadedModel`; read anew if the file, the device or the precision changed."""
        from napari_deepretina.inference.device import resolve_device
        from napari_deepretina.model.weights import find, load_model

        path: Path = find(weights)
        where = resolve_device(device)
        key = (path, path.stat().st_mtime_ns, where, precision)
        if key != self._key:
            self._model, self._key = None, None  # free the old one before the new one comes
            self._model = load_model(path, where, precision)
            self._key = key
        return self._model


@dataclass(frozen=True)
class Cancelled:
    """The end of a job that was told to stop, with what it leaves (None: nothing)."""

    left: Any


def guarded(
    stop: threading.Event, job: Callable[..., Generator[Any, None, Any]], *args: Any
) -> Generator[Any, None, Any]:
    """The steps of a job; an exception ends them with a `Failure` instead of escaping the thread.

    Once `stop` is set, they end with `Cancelled` after the step that is under way; what a cancelled run
    leaves is made here, not in the GUI's thread.
    """
    try:
        steps, partial = job(*args), None
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            partial = step.partial or partial
            if stop.is_set():
                steps.close()
                return Cancelled(partial() if partial else None)
            yield step
    except UserError as error:
        return Failure(str(error))
    except MemoryError:
        return Failure("There is not enough memory for this image; crop it or give a larger diameter.")
    except Exception as error:  # shown to the person; the traceback goes to the log
        log.exception("a background job failed")
        return Failure(
            f"Something went wrong ({type(error).__name__}), which is a fault of ours. Your layers are as "
            "they were; napari's terminal shows the details: please report them."
        )


def segment_job(image: Any, values: dict[str, Any], cache: ModelCache) -> Generator[Any, None, Any]:
    """Load what is needed and segment one image; yields Progress, returns a Segmentation."""
    yield Progress(0.0, "starting PyTorch")
    import_torch()
    from napari_deepretina.inference.segment import segment_steps
    from napari_deepretina.inference.settings import make_settings

    yield Progress(0.01, "loading weights")
    settings = make_settings(**values)
    model = cache.get(settings.weights, settings.device, settings.precision)
    done = yield from with_patches(
        segment_steps(image, model, settings, tunable=True, keep=unfinished_tiles())
    )
    done.labels  # noqa: B018 - painted here, not in the GUI's thread
    return done


def stack_job(picture: Any, values: dict[str, Any], cache: ModelCache) -> Generator[Any, None, Any]:
    """Segment the planes of a stack, several at a time; yields Progress, returns a StackSegmentation."""
    yield Progress(0.0, "starting PyTorch")
    import_torch()
    from napari_deepretina.inference.engine import threads
    from napari_deepretina.inference.settings import make_settings
    from napari_deepretina.inference.stacks import segment_stack_steps

    yield Progress(0.01, "loading weights")
    settings = make_settings(**values)
    model = cache.get(settings.weights, settings.device, settings.precision)
    with threads(model) as engine:
        steps = segment_stack_steps(picture, model, settings, engine=engine, tunable=True)
        return (yield from with_patches(steps))


def unfinished_tiles() -> Path:
    """Where tiles of interrupted runs lie, so that the next run of the same image goes on with them."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("napari-deepretina", appauthor=False)) / "tiles"


def with_patches(steps: Generator[Any, None, Any]) -> Generator[Any, None, Any]:
    """The same steps; patches are made here and not in the GUI's thread."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        yield step if step.patch is None else replace(step, patch=step.patch())


@dataclass(frozen=True)
class Best:
    """Settings that a sweep found best, and their score."""

    settings: PostprocessSettings
    score: float


def sweep_job(
    postprocess: Postprocessor, truth: np.ndarray, start: PostprocessSettings, grid: dict[str, Any]
) -> Generator[Any, None, Best]:
    """Try settings against a truth; yields Progress."""
    from napari_deepretina.evaluation.sweep import sweep

    steps = sweep(postprocess, truth, start, grid)
    while True:
        try:
            done = next(steps)
        except StopIteration as end:
            return Best(*end.value)
        yield Progress(done, "trying settings")
