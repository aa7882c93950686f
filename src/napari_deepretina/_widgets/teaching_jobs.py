"""Teaching off the GUI thread."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_deepretina._widgets.safe_import import import_torch
from napari_deepretina.document.changes import Index
from napari_deepretina.errors import UserError
from napari_deepretina.inference.steps import Progress, within
from napari_deepretina.instances import RawInstances

if TYPE_CHECKING:
    from napari_deepretina.inference.settings import SegmentSettings
    from napari_deepretina.teaching.corrections import Corrections
    from napari_deepretina.teaching.teach import Lessons, Teacher


@dataclass(frozen=True)
class Planes:
    """What is to be learnt from.

    Attributes
    ----------
    images : (H, W) or (H, W, C), by plane of the result.
    corrections : of each of them.
    settings : that the result was made with.
    scale : zoom that its nuclei were found with.
    """

    images: Mapping[Index, Any]
    corrections: Mapping[Index, Corrections]
    settings: Mapping[str, Any]
    scale: float


@dataclass(frozen=True)
class Taught:
    """What came of teaching: detections by plane, with the taught network; none where it did not help."""

    lessons: Lessons
    teacher: Teacher
    seen: Mapping[Index, RawInstances]
    seconds: float


@dataclass
class Teachers:
    """Who teaches which weights; they remember images for as long as napari runs.

    Attributes
    ----------
    by_base : path of the base weights, device and precision → who teaches them.
    known : files of taught heads whose images a teacher remembers.
    """

    by_base: dict[tuple[Path, str, str], Teacher] = field(default_factory=dict)
    known: set[Path] = field(default_factory=set)


def teach_job(planes: Planes, teachers: Teachers) -> Generator[Any, None, Taught]:
    """Learn from the corrections, and look again at their planes; yields Progress."""
    begun = time.perf_counter()
    yield Progress(0.0, "starting PyTorch")
    import_torch()
    steps = _taught(planes, teachers)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            taught: Taught = end.value
            return replace(taught, seconds=time.perf_counter() - begun)
        yield replace(step, text=f"{step.text}, {time.perf_counter() - begun:.0f} s")


def _taught(planes: Planes, teachers: Teachers) -> Generator[Any, None, Taught]:
    from napari_deepretina.inference.segment import segment_steps
    from napari_deepretina.inference.settings import make_settings
    from napari_deepretina.teaching.material import material_steps

    settings = make_settings(**planes.settings)
    yield Progress(0.01, "loading weights")
    first = planes.images[next(iter(planes.corrections))]
    teacher, material, path = _teacher(first, settings, teachers)
    for index, corrections in planes.corrections.items():
        steps = material_steps(planes.images[index], corrections, teacher.base, settings, planes.scale)
        material.append((yield from within(steps, 0.02, 0.1)))
    chosen = settings.postprocessing(teacher.base.info)
    lessons = yield from within(teacher.teach(material, chosen), 0.1, 0.8)
    teachers.known.add(path)
    seen: dict[Index, RawInstances] = {}
    for index in planes.corrections if lessons.helped else ():
        looking = segment_steps(planes.images[index], lessons.model, settings, tunable=True)
        found = yield from within(looking, 0.8, 1.0)
        seen[index] = found.prediction.raw
    return Taught(lessons, teacher, seen, 0.0)


def _teacher(image: Any, settings: SegmentSettings, teachers: Teachers) -> tuple[Any, list[Any], Path]:
    """Who teaches what looked at an image, what is to be remembered first, and the weights' file."""
    from napari_deepretina.model.weights import find
    from napari_deepretina.teaching.session import base_of, remembered_of, teacher_of

    path = find(settings.weights)
    key = (base_of(path, image, settings), settings.device, settings.precision)
    if key not in teachers.by_base:
        teachers.by_base[key] = teacher_of(*key)
    earlier = [] if path in teachers.known else list(remembered_of(path))
    return teachers.by_base[key], earlier, path


def keep_job(taught: Taught, name: str, overwrite: bool) -> Generator[Any, None, Path]:
    """Write taught heads under a name; yields Progress."""
    yield Progress(0.1, "writing")
    from napari_deepretina.teaching.session import target_of, write

    return write(taught.lessons, taught.teacher, target_of(name, overwrite=overwrite))


def planes_of(document: Any, image_of: Any, mark: Mapping[str, Any]) -> Planes:
    """Planes of a document that a person corrected.

    Parameters
    ----------
    image_of : gives the image of a plane.
    mark : how the result was made.

    Raises
    ------
    UserError
        If nothing was corrected.
    """
    from napari_deepretina.teaching.corrections import of_document

    indices = sorted(document.planes) or [()]
    known = {index: of_document(document, index) for index in indices}
    known = {index: corrections for index, corrections in known.items() if len(corrections)}
    if not known:
        raise UserError(
            "nothing was corrected yet: accept, draw, mend or delete some nuclei, and they are learnt from"
        )
    settings = dict(mark["settings"]) | {"channel": None, "planes": "all", "link": 0.0}
    return Planes({index: image_of(index) for index in known}, known, settings, float(mark["scale"]))
