"""What was asked of a run, as run.json keeps it, and what its settings mean for one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from napari_deepretina.data.channel_names import number_of
from napari_deepretina.data.regions import SUFFIX, Region, read_regions
from napari_deepretina.errors import UserError
from napari_deepretina.files import expanded
from napari_deepretina.inference.settings import SegmentSettings


class WeightsUsed(BaseModel):
    """The file of weights that a run used."""

    model_config = ConfigDict(extra="allow")
    sha256: str

    @property
    def specialist(self) -> str:
        """SHA-256 of the specialist that looked at one of the images; empty if none did."""
        return str((self.model_extra or {}).get("specialist_sha256", ""))


class RunRecord(BaseModel):
    """What run.json tells of a run over images; more may stand in it.

    Attributes
    ----------
    settings : fields of `SegmentSettings`.
    advised : those of them that nobody chose: the weights advised them.
    precision : in which the network ran; the first versions knew no other.
    inputs … recursive : what the command line was given.
    images : what came of each, by name.
    skipped : why, by place.
    """

    model_config = ConfigDict(extra="allow")
    settings: dict[str, Any]
    advised: list[str] = []
    precision: str = "float32"
    weights: WeightsUsed | None = None
    inputs: list[str] = []
    part: str | None = None
    axes: str | None = None
    series: int | None = None
    formats: str | None = None
    beside: bool = False
    recursive: bool = False
    images: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}


def for_image(
    settings: SegmentSettings, *, names: Sequence[str] = (), channels: int = 1, image: str = ""
) -> SegmentSettings:
    """The same settings with the channel as a number and the regions as outlines.

    Parameters
    ----------
    names : of the image's channels, where its file tells them.
    channels : how many it has.
    image : its name, by which its regions are found in a folder of them.

    Raises
    ------
    UserError
        If there is no such channel, or no file of regions.
    """
    changed: dict[str, object] = {}
    if isinstance(settings.channel, str):
        changed["channel"] = number_of(settings.channel, names, channels)
    if isinstance(settings.regions, str):
        changed["regions"] = regions_for(settings.regions, image)
    return settings.model_copy(update=changed) if changed else settings


def regions_for(where: str, image: str) -> tuple[Region, ...]:
    """Regions of one image, from a file or from a folder of files that are called like their images.

    Raises
    ------
    UserError
        If there is none, or it cannot be read.
    """
    path = expanded(where)
    if not path.is_dir():
        return read_regions(path)
    own = path / f"{image}{SUFFIX}"
    if not own.is_file():
        raise UserError(f"{path} holds no regions for this image: {own.name} is not there")
    return read_regions(own)


def regions_of(settings: SegmentSettings) -> tuple[Region, ...]:
    """Regions of settings that are those of one image; () for the whole image."""
    return settings.regions if isinstance(settings.regions, tuple) else ()
