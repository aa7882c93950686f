"""All choices of a segmentation in one value: the form, the command line and run.json share it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from napari_deepretina.data.regions import Region
from napari_deepretina.errors import UserError
from napari_deepretina.inference.views import View
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.weights import DEFAULT
from napari_deepretina.postprocess import PostprocessSettings

ADVISED = ("score", "nms", "min_area")
"""Settings that weights may have advice on, which counts where nobody chooses."""


class SegmentSettings(PostprocessSettings):
    """Post-processing settings plus those that the network itself needs."""

    weights: str = DEFAULT
    """A known name or a path."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16: auto takes bfloat16 on devices that are quick at it."""
    tta: str | tuple[View, ...] = "none"
    """Test-time views: none, flips, flips-rotations, deep-retina, or a .json list of views."""
    channel_shift_seed: int | None = Field(default=None, ge=0)
    """Given, views shift their colour channels at random, as the original meant to; none leaves them."""
    channel: Annotated[int, Field(ge=0)] | str | None = None
    """The channel to look at: its number, counted from 0, or its name where the file tells it; none takes
    grey and photographs as they are, and of other channels the one that shows most."""
    intensity: str = "auto"
    """auto leaves padding and glare out of the range of intensities, takes colours on a dark ground apart,
    and the stains of brown slides where more nuclei show then; plain takes 1 to 99.8 % of all values;
    LOW:HIGH, such as 100:4000, takes these; haematoxylin looks at the density of this stain alone,
    haematoxylin+brown at both stains together."""
    specialist: Literal["auto", "always", "never"] = "auto"
    """Whether the network for stained tissue and unstained cells looks, of weights that come with one: auto
    asks it where colours lie on a bright ground, and where cells are darker and brighter than a grey one."""
    invert: bool = False
    """Dark and bright change places before the image is looked at."""
    tile: int = Field(default=1280, ge=256, le=8192)
    """Side of the tiles that large images are cut into, in pixels of the network's input; memory grows with
    its square."""
    planes: str = "all"
    """Stacks: all planes, one by its number, or a range such as 3:9, counted from 0, the end left out."""
    regions: str | tuple[Region, ...] | None = None
    """Look for nuclei only inside these: a GeoJSON file as QuPath writes it, or a folder with NAME.geojson
    for each image; none looks everywhere."""
    link: float = Field(default=0, ge=0, le=1)
    """Stacks: nuclei of neighbouring planes with at least this overlap (IoU) get one id, as 3D objects or
    tracks; 0 leaves planes apart."""
    link_gap: int = Field(default=0, ge=0, le=20)
    """Planes that a linked nucleus may be missing from."""
    diameter: float | None = Field(default=None, gt=0)
    """Expected nucleus diameter in pixels; none keeps the image's scale, but enlarges small images."""
    adapt: bool = True
    """Where no diameter is given and the nuclei found are much smaller or larger than those that the network
    knows, look once more at the image, enlarged or reduced."""

    @field_validator("channel", mode="before")
    @classmethod
    def _number(cls, channel: Any) -> Any:
        return int(channel) if isinstance(channel, str) and channel.strip().isdecimal() else channel

    def postprocessing(self, info: WeightsInfo) -> PostprocessSettings:
        """The part for post-processing; what was not chosen is taken from the weights' own advice."""
        fields = PostprocessSettings.model_fields
        chosen = {k: getattr(self, k) for k in self.model_fields_set & fields.keys()}
        advice = {k: v for k, v in info.postprocess.items() if k in fields}
        return PostprocessSettings.model_validate({**advice, **chosen})


def make_settings(**values: Any) -> SegmentSettings:
    """SegmentSettings, with every wrong name or value told in one UserError."""
    try:
        return SegmentSettings.model_validate(values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors()]
        raise UserError("; ".join(problems)) from None
