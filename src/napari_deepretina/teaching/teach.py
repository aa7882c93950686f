"""A person's corrections teach a network's heads; whether that helped is told, and decides."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_deepretina.data.reading import Reading
from napari_deepretina.errors import UserError
from napari_deepretina.inference.predict import Prediction, Whole, predict
from napari_deepretina.inference.steps import Progress, Steps, drain, within
from napari_deepretina.model.detector import Detector
from napari_deepretina.model.header import Taught
from napari_deepretina.model.network import Detecting, MaskRCNN
from napari_deepretina.model.weights import LoadedModel
from napari_deepretina.postprocess import PostprocessSettings, postprocess
from napari_deepretina.teaching.corrections import Corrections, windows
from napari_deepretina.teaching.heads import Heads
from napari_deepretina.teaching.learning import between, learn
from napari_deepretina.teaching.lesson import Lesson, lesson_of
from napari_deepretina.teaching.looked import Looked, with_pyramid
from napari_deepretina.teaching.material import Material
from napari_deepretina.teaching.rescored import known_of, moved
from napari_deepretina.teaching.told import Told, told_of

WHOLE = 1344
"""Images of no longer sides, in pixels of the network's input, are learnt from as a whole."""
WINDOW, WINDOWS = 704, 6
"""Side of the parts of others that are, and how many there are at most."""
ASIDE = 4
"""Of so many corrections one is kept aside, to see whether teaching helps."""
FEWEST = 3
"""Corrections that it takes at least."""
RECALLED = 4
"""Parts of images, the last ones, that scores are seen over."""


@dataclass(frozen=True)
class Part:
    """A part of an image that was looked at, with what it teaches."""

    key: str
    image: NDArray[Any]
    corrections: Corrections
    scale: float
    reading: Reading
    lesson: Lesson

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.image.nbytes + self.corrections.labels.nbytes + self.lesson.nbytes


@dataclass(frozen=True)
class Lessons:
    """What teaching led to.

    Attributes
    ----------
    model : the taught network, or the base where teaching did not help.
    differences : of its weights to those of the base, float32 with the values of half precision.
    helped : whether it is the taught one.
    before, after : how the base and the taught network meet the corrections that were kept aside.
    steps : of learning.
    corrections, images : that were learnt from.
    """

    model: LoadedModel
    differences: dict[str, torch.Tensor]
    helped: bool
    before: Told
    after: Told
    steps: int
    corrections: int
    images: int

    def __str__(self) -> str:
        """Whether it helped, as a sentence."""
        learnt = f"{self.corrections} corrections" + (f" in {self.images} images" if self.images > 1 else "")
        if not self.before.found + self.before.missed + self.before.extra + self.after.extra:
            return f"Learnt from {learnt}: too few to tell whether it helped."
        verdict = "helped" if self.helped else "did not help, and the weights stay as they were"
        return (
            f"Teaching {verdict}: of the corrections kept aside, {self.before} before, {self.after} after. "
            f"Learnt from {learnt}."
        )


class Teacher:
    """Teaches one network, image after image; each time anew from the base, with all that it remembers.

    Parameters
    ----------
    base : a network of ours, not Matterport's, that was not taught itself.

    Attributes
    ----------
    parts : parts of images that were learnt from, the last ones last, within `MOST_BYTES`.

    Raises
    ------
    UserError
        If the network cannot be taught.
    """

    MOST_BYTES = 500e6

    def __init__(self, base: LoadedModel) -> None:
        if not isinstance(base.network, MaskRCNN):
            raise UserError(
                f"{base.info.name} is a network of Matterport's, which cannot be taught: choose other "
                "weights, or train with the recipe fine-tune"
            )
        if base.info.architecture.num_classes != 2:
            raise UserError(
                f"{base.info.name} tells several classes apart, which teaching cannot: train instead"
            )
        if base.info.taught is not None:
            raise UserError(
                f"{base.info.name} was taught itself: teach the weights {base.info.taught.base!r}"
            )
        self._pyramid = _detector(base).pyramid
        self._looked = Looked(self._pyramid)
        self.base = _seeing(replace(base, beside=None), with_pyramid(_detector(base), self._looked))
        self.parts: list[Part] = []

    def teach(self, material: Sequence[Material], settings: PostprocessSettings) -> Steps[Lessons]:
        """Learn from images and all that were learnt from before; progress at each step.

        Parameters
        ----------
        material : images with their corrections; one of a known key replaces what was learnt from it.
        settings : of post-processing, with which the corrections kept aside are judged.

        Raises
        ------
        UserError
            If there are too few corrections.
        """
        known = [part for part in self.parts if part.key not in {m.key for m in material}]
        planned = [(m, *part) for m in material for part in self._windows(m)]
        new: list[Part] = []
        for number, (one, window, corrections) in enumerate(planned):
            yield Progress(0.3 * number / len(planned), "looking at the image")
            new.append(self._part(one, window, corrections))
        parts = self._bounded([*known, *(part for part in new if len(part.corrections))])
        count = sum(len(part.corrections) for part in parts)
        if count < FEWEST:
            raise UserError(
                f"{count} corrections are too few to learn from: accept, draw, mend or delete at least "
                f"{FEWEST} nuclei"
            )
        aside = torch.arange(ASIDE - 1, count, ASIDE)
        lessons = [part.lesson for part in parts]
        half = self.base.precision == "bfloat16"
        learning = learn(self._network, lessons, aside=aside, half=half)
        learnt, steps = yield from within(learning, 0.3, 0.6)
        yield Progress(0.6, "seeing whether it helped")
        trial = self._calibrated(self._taught(learnt), parts, set(aside.tolist()))
        before, after = (
            self._told(model, parts, set(aside.tolist()), settings) for model in (self.base, trial)
        )
        images = len({part.key for part in parts})
        helped = not after.worse_than(before)
        model, differences = _seeing(self.base, with_pyramid(_detector(self.base), self._pyramid)), {}
        if helped:
            learning = learn(self._network, lessons, begin=learnt, half=half)
            learnt, _ = yield from within(learning, 0.7, 0.9)
            yield Progress(0.9, "learning what scores mean now")
            differences = self._differences(learnt)
            model = self._calibrated(self._taught(learnt), parts, set())
            told = Taught(
                base=self.base.info.name, sha256=self.base.sha256, corrections=count, images=images,
                before=asdict(before), after=asdict(after),
            )  # fmt: skip
            name = f"{self.base.info.name}, taught"
            info = model.info.model_copy(
                update={"name": name, "taught": told, "specialist": None, "score": {}}
            )
            detector = with_pyramid(_detector(model), self._pyramid)  # what was looked at is not kept by it
            model = _seeing(replace(model, info=info, sha256=_digest(self.base, differences)), detector)
        self.parts = parts
        return Lessons(model, differences, helped, before, after, steps, count, images)

    # ---- how ----

    @property
    def _network(self) -> MaskRCNN:
        assert isinstance(self.base.network, MaskRCNN)
        return self.base.network

    def _windows(self, one: Material) -> list[tuple[tuple[slice, slice], Corrections]]:
        height, width = one.corrections.labels.shape
        if max(height, width) * one.scale <= WHOLE:
            return [((slice(0, height), slice(0, width)), one.corrections)]
        return list(windows(one.corrections, int(WINDOW / one.scale), WINDOWS))

    def _part(self, one: Material, window: tuple[slice, slice], corrections: Corrections) -> Part:
        image = np.array(one.image[window])
        lesson = lesson_of(self.base, one.reading(image), corrections, one.scale)
        return Part(one.key, image, corrections, one.scale, one.reading, lesson)

    def _bounded(self, parts: list[Part]) -> list[Part]:
        """Without the oldest, where all take too much."""
        kept: list[Part] = []
        for part in reversed(parts):
            if kept and sum(p.nbytes for p in kept) + part.nbytes > self.MOST_BYTES:
                break
            kept.insert(0, part)
        return kept

    def _differences(self, learnt: Heads) -> dict[str, torch.Tensor]:
        """What stays of what heads learnt, with the values that half precision keeps."""
        before, held = self._network.state_dict(), between(Heads(self._network), learnt)
        changed = {k: v - before[k] for k, v in held.state_dict().items() if v.is_floating_point()}
        return {k: v.half().float() for k, v in changed.items() if v.any()}

    def _taught(self, learnt: Heads) -> LoadedModel:
        network, differences = copy.deepcopy(self._network), self._differences(learnt)
        state = network.state_dict()
        network.load_state_dict({k: v + differences[k] if k in differences else v for k, v in state.items()})
        model = replace(self.base, network=network.eval())
        return _seeing(model, with_pyramid(_detector(model), self._looked))

    def _seen(self, model: LoadedModel, part: Part) -> Prediction:
        return drain(predict(model, part.image, scale=part.scale, whole=Whole(part.reading)))

    def _calibrated(self, model: LoadedModel, parts: Sequence[Part], aside: set[int]) -> LoadedModel:
        """With scores moved to what the corrections say that are not kept aside."""
        if model.info.rescoring is None:
            return model
        seen = []
        for part, mine in list(_with_aside(parts, aside))[-RECALLED:]:
            raw = self._seen(model, part).raw
            seen.append((raw.scores, *known_of(raw, part.corrections.without(mine))))
        info = model.info.model_copy(update={"rescoring": moved(model.info.rescoring, seen)})
        return _seeing(replace(model, info=info), model.detector)

    def _told(
        self, model: LoadedModel, parts: Sequence[Part], aside: set[int], settings: PostprocessSettings
    ) -> Told:
        """How a network meets the corrections kept aside."""
        told = [
            told_of(postprocess(self._seen(model, part).raw, settings), part.corrections.only(mine))
            for part, mine in list(_with_aside(parts, aside))[-RECALLED:]
            if mine
        ]
        found = sum(t.found for t in told)
        iou = sum(t.found * t.mean_iou for t in told) / max(1, found)
        return Told(found, sum(t.missed for t in told), sum(t.extra for t in told), round(iou, 4))


def _with_aside(parts: Sequence[Part], aside: set[int]) -> Iterator[tuple[Part, list[int]]]:
    """Parts, and which of their own corrections are kept aside."""
    first = 0
    for part in parts:
        count = len(part.corrections)
        yield part, [number for number in range(count) if first + number in aside]
        first += count


def _seeing(model: LoadedModel, detector: Detecting) -> LoadedModel:
    """The same model with a detector that is there already."""
    twin = replace(model)
    twin.__dict__["detector"] = detector
    return twin


def _detector(model: LoadedModel) -> Detector:
    assert isinstance(model.detector, Detector)
    return model.detector


def _digest(base: LoadedModel, differences: Mapping[str, torch.Tensor]) -> str:
    """Tells taught weights that are in no file yet apart."""
    told = hashlib.sha256(base.sha256.encode())
    for name, value in sorted(differences.items()):
        told.update(name.encode() + value.numpy().tobytes())
    return told.hexdigest()
