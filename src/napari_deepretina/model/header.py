"""What a weights file says of itself, in the header of its safetensors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from napari_deepretina.intake import first_fault
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.rescoring import Rescoring
from napari_deepretina.postprocess.settings import PostprocessSettings

PERCENTILES = "percentile 1-99.8 to 0-1"


def normalisation_of(architecture: Architecture) -> str:
    """How images are laid before a network of this architecture."""
    return "RGB 0-255 minus (123.7, 116.8, 103.9)" if architecture.is_matterport else PERCENTILES


class Taught(BaseModel):
    """What a file of taught heads is a difference to, and what taught it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    base: str
    """Name of the weights."""
    sha256: str
    """Of their file."""
    corrections: int
    images: int
    before: dict[str, float] = {}
    """Of the corrections kept aside: ``found``, ``missed``, ``extra``, ``mean_iou``."""
    after: dict[str, float] = {}


class Specialist(BaseModel):
    """What a file of differences is a difference to, which is a network for tissue and unstained cells."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    base: str
    """Name of the weights."""
    sha256: str
    """Of their file."""


class WeightsInfo(BaseModel):
    """What the header of a weights file says."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    architecture: Architecture
    normalisation: str = PERCENTILES
    diameter: float = Field(default=32.0, gt=0)
    """Median nucleus diameter in the training images, in pixels of the network's input."""
    data: str = ""
    score: dict[str, float] = {}
    """Validation figures, e.g. ``{"dsb_score": 0.5}``."""
    recipe: str = ""
    steps: int = 0
    version: str = ""
    """Version of the package that wrote the file."""
    licence: str = "BSD-3-Clause"
    attribution: tuple[str, ...] = ()
    """The data sets that it was trained on, as their licences ask them to be named."""
    postprocess: dict[str, float] = {}
    """Settings of post-processing that suit these weights."""
    rescoring: Rescoring | None = None
    """How the network's scores are seen in the light of the other detections; None leaves them."""
    taught: Taught | None = None
    """Given, the file holds no more than what differs from other weights."""
    specialist: Specialist | None = None
    """The same, for stained tissue and unstained cells."""

    @property
    def differs_from(self) -> Taught | Specialist | None:
        """The weights that the file holds the difference to; None for a whole network."""
        return self.taught or self.specialist

    @field_validator("postprocess")
    @classmethod
    def _possible(cls, advice: dict[str, float]) -> dict[str, float]:
        known = {k: v for k, v in advice.items() if k in PostprocessSettings.model_fields}
        try:
            PostprocessSettings.model_validate(known)
        except ValidationError as error:
            raise ValueError(first_fault(error)) from None
        return advice
