"""Teaching from pairs of image and labels: in one call, and what comes of it in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.errors import UserError
from napari_deepretina.files import exists, written_whole
from napari_deepretina.inference.device import resolve_device
from napari_deepretina.inference.segment import asks_specialist, segment_steps
from napari_deepretina.inference.settings import SegmentSettings, make_settings
from napari_deepretina.inference.steps import Progress, Steps, drain, within
from napari_deepretina.model.difference import base_file, save_difference
from napari_deepretina.model.weights import beside, find, load_model, read_info, user_folder
from napari_deepretina.teaching.corrections import Corrections, of_labels
from napari_deepretina.teaching.material import Material, material_of
from napari_deepretina.teaching.memory import keep, memory_of, recall
from napari_deepretina.teaching.teach import Lessons, Teacher


@dataclass(frozen=True)
class Pair:
    """An image and what is known of its nuclei.

    Attributes
    ----------
    name : of the image, for messages.
    image : (H, W) or (H, W, C).
    labels : (H, W) integer, or corrections that are known.
    """

    name: str
    image: NDArray[Any]
    labels: NDArray[Any] | Corrections


def base_of(path: Path, image: Any, settings: SegmentSettings) -> Path:
    """The weights that are to be taught, where those of a file found an image's nuclei.

    Of taught heads these are the weights that they were taught on; of a pair of networks the one that looked
    at the image.
    """
    info = read_info(path)
    if info.taught is not None:
        return base_file(path, info)
    specialist = beside(path)
    load = partial(load_model, path, resolve_device(settings.device), settings.precision)
    return specialist.path if specialist and asks_specialist(image, settings, load) else path


def remembered_of(path: Path) -> Iterator[Material]:
    """What weights were taught with; nothing of those that were not taught."""
    if read_info(path).taught is not None:
        yield from recall(memory_of(path))


def teacher_of(base: Path, device: str = "auto", precision: str = "auto") -> Teacher:
    """Who teaches these weights; UserError if they cannot be taught."""
    return Teacher(load_model(base, resolve_device(device), precision))


def teach(
    image: NDArray[Any], labels: NDArray[Any], *, complete: bool = False, out: str | Path | None = None,
    **settings: Any,
) -> Lessons:  # fmt: skip
    """Teach a network's heads with an image of which some nuclei are known.

    Parameters
    ----------
    image : (H, W) grey or (H, W, 3 or 4) RGB(A), any real dtype; with ``channel``, (H, W, C).
    labels : (H, W) integer, 0 background. Nuclei that the network draws in just the same way teach nothing;
        all others count as right. Where there are such nuclei, detections that are missing count as deleted.
    complete : whether all labels are right, and no nucleus is left out.
    out : given, the taught heads are written there if they help: a name, or a file ``….safetensors``.
    **settings : fields of `SegmentSettings`; ``weights`` may be taught ones, which learn on.

    Returns
    -------
    Lessons
        ``lessons.model`` segments: ``segment(image, model=lessons.model)``. ``print(lessons)`` tells whether
        teaching helped; where it did not, the model is the one of before.

    Raises
    ------
    UserError
        If image, labels or weights do not go together, or there are too few corrections.
    """
    target = None if out is None else target_of(out)
    checked = make_settings(**settings)
    path = find(checked.weights)
    teacher = teacher_of(base_of(path, image, checked), checked.device, checked.precision)
    earlier = list(remembered_of(path))
    lessons = drain(teach_steps(teacher, [Pair("image", image, labels)], checked, earlier, complete=complete))
    if target is not None and lessons.helped:
        write(lessons, teacher, target)
    return lessons


def teach_steps(
    teacher: Teacher,
    pairs: Sequence[Pair],
    settings: SegmentSettings,
    earlier: Sequence[Material] = (),
    *,
    complete: bool = False,
) -> Steps[Lessons]:
    """The same for several images, in steps: progress at each, cancelled by closing the generator."""
    base, material = teacher.base, list(earlier)
    for number, pair in enumerate(pairs):
        yield Progress(0.3 * number / len(pairs), f"segmenting {pair.name}")
        found = drain(segment_steps(pair.image, base, settings))
        known = pair.labels
        if not isinstance(known, Corrections):
            known = of_labels(np.asarray(known), found.instances, complete=complete)
        material.append(material_of(pair.image, known, base, found))
    return (yield from within(teacher.teach(material, settings.postprocessing(base.info)), 0.3, 1.0))


def target_of(name: str | Path, *, overwrite: bool = False) -> Path:
    """Where taught heads of this name go: a file, or a name in the list of weights.

    Raises
    ------
    UserError
        If there is such a file already, or the name is no name.
    """
    text = str(name)
    path = Path(text) if text.endswith(".safetensors") else user_folder() / f"{text}.safetensors"
    if not text.endswith(".safetensors") and (not text.strip() or Path(text).name != text):
        raise UserError(
            f"{text!r} is no name for weights: give a plain name, or a file that ends in .safetensors"
        )
    for there in (path, memory_of(path)):
        if exists(there) and not (overwrite and is_taught(path)):
            raise UserError(f"{there} is there already, and is not replaced: choose another name")
    return path


def is_taught(path: Path) -> bool:
    """Whether a file holds taught heads, which may be replaced by newer ones."""
    try:
        return read_info(path).taught is not None
    except UserError:
        return False


def write(lessons: Lessons, teacher: Teacher, path: Path) -> Path:
    """Write taught heads, and beside them what they were taught with.

    Raises
    ------
    UserError
        If teaching did not help, or the disk refuses.
    """
    if not lessons.helped:
        raise UserError("teaching did not help, so there is nothing to keep")
    with written_whole(memory_of(path)) as part:
        keep(teacher.parts, part)
    save_difference(lessons.differences, lessons.model.info, path)
    return path
