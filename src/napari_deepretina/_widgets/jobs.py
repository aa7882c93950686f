"""Work off the GUI thread: steps become progress, exceptions become sentences."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_deepretina._widgets.safe_import import import_torch
from napari_deepretina.errors import UserError
from napari_deepretina.inference.steps import Progress

log = logging.getLogger(__name__)
PREVIEW_SECONDS = 3.0
"""Between two looks at what is there so far; for images of more than `SMALL` pixels, accordingly longer."""
SMALL = 8_000_000


@dataclass(frozen=True)
class Failure:
    """Why a job gave no result, as a sentence for a person."""

    message: str


class ModelCache:
    """The last network used, so that running again does not read it again."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._model: Any = None

    def get(self, weights: str, device: str) -> Any:
        """A `LoadedModel`; read anew if the file or the device changed."""
        from napari_deepretina.inference.device import resolve_device
        from napari_deepretina.model.weights import find, load_model

        path: Path = find(weights)
        where = resolve_device(device)
        key = (path, path.stat().st_mtime_ns, where)
        if key != self._key:
            self._model, self._key = None, None  # free the old one before the new one comes
            self._model = load_model(path, where)
            self._key = key
        return self._model


def guarded(job: Callable[..., Generator[Any, None, Any]], *args: Any) -> Generator[Any, None, Any]:
    """The steps of a job; an exception ends them with a `Failure` instead of escaping the thread."""
    try:
        return (yield from job(*args))
    except UserError as error:
        return Failure(str(error))
    except MemoryError:
        return Failure("There is not enough memory for this image; crop it or give a larger diameter.")
    except Exception as error:  # shown to the person; the traceback goes to the log
        log.exception("a background job failed")
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        return Failure(
            f"Something went wrong ({type(error).__name__}: {reason}). Your layers are as "
            "they were; the log holds the details."
        )


def segment_job(image: Any, values: dict[str, Any], cache: ModelCache) -> Generator[Any, None, Any]:
    """Load what is needed and segment one image; yields Progress, returns a Segmentation."""
    yield Progress(0.0, "starting PyTorch")
    import_torch()
    from napari_deepretina.inference.segment import segment_steps
    from napari_deepretina.inference.settings import make_settings

    yield Progress(0.01, "loading weights")
    settings = make_settings(**values)
    model = cache.get(settings.weights, settings.device)
    return (yield from _with_previews(segment_steps(image, model, settings, tunable=True)))


def _with_previews(steps: Generator[Any, None, Any]) -> Generator[Any, None, Any]:
    """The same steps; now and then one brings what is there so far, made here and not in the GUI's thread."""
    due = time.monotonic() + PREVIEW_SECONDS
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        begun = time.monotonic()
        if step.grows and step.partial is not None and begun >= due:
            step = replace(step, preview=step.partial())
            took = time.monotonic() - begun
            pixels = step.preview.labels.size  # to show them takes its time as well
            due = begun + took + max(PREVIEW_SECONDS, 4 * took, PREVIEW_SECONDS * pixels / SMALL)
        yield step
