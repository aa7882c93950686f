"""What random views of training images are drawn from: settings alone, without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Augmentation(BaseModel):
    """Ranges that a random crop is drawn from; zero or one switches an operation off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    geometry: Literal["free", "deep-retina"] = "free"
    """free draws zoom and place around nuclei; deep-retina does as the original (see `enlarge`)."""
    scale: tuple[float, float] = (0.6, 1.6)
    """free: zoom on top of the scale used at inference, drawn log-uniformly."""
    adapt: float = Field(default=0, ge=0, le=1)
    """free: probability that an image whose nuclei are small or large is shown at the size that inference
    chooses for it."""
    enlarge: float = Field(default=1.2, gt=0)
    """deep-retina: the scale is drawn from m to the larger of this and m · zoom, where m brings the short
    side to the crop's."""
    zoom: float = Field(default=1.5, gt=0)
    corner: Literal["random", "top-left"] = "random"
    """deep-retina: where the crop lies; top-left is the bug that the winning weights were made with."""
    aspect: float = Field(default=1.2, ge=1)
    """One axis, at even odds, is stretched by up to this."""
    rotation: float = Field(default=15, ge=0, le=180)
    """Half the crops are turned by up to this many degrees, either way."""
    flips: bool | Literal["left-right"] = True
    """Mirror images and quarter turns; left-right for things that stand upright."""
    channel_shift: float = Field(default=0, ge=0)
    """Largest shift of each channel, in grey levels of 255, within the crop's own range."""
    gamma: float = Field(default=1.5, ge=1)
    brightness: float = Field(default=0.1, ge=0)
    contrast: float = Field(default=0.2, ge=0, lt=1)
    colour: float = Field(default=0.1, ge=0)
    """Shift of each channel."""
    grey: float = Field(default=0.1, ge=0, le=1)
    """Probability that a colour image becomes grey."""
    invert: float = Field(default=0.05, ge=0, le=1)
    """Probability that dark and bright change places."""
    noise: float = Field(default=0.04, ge=0)
    """Largest standard deviation of added Gaussian noise."""
    blur: float = Field(default=1.0, ge=0)
    """Largest sigma, in pixels; a quarter of the crops is blurred."""
    stain: float = Field(default=0, ge=0, lt=1)
    """Colour images: how much the strength of each stain (haematoxylin, eosin, DAB) varies."""
    hue: float = Field(default=0, ge=0, le=180)
    """Colour images: half of the crops have their hues turned by up to this many degrees, either way."""
    brown: float = Field(default=0, ge=0, le=1)
    """Stained tissue: probability that it is painted like immunohistochemistry, brown on blue."""
    paste: float = Field(default=0, ge=0, le=1)
    """Probability that some of the crop's nuclei are copied to free places, mirrored."""
    centred: float = Field(default=0.7, ge=0, le=1)
    """free: probability that a crop is laid around a nucleus instead of anywhere."""


DEEP_RETINA = {
    **dict.fromkeys(("brightness", "contrast", "colour", "grey", "invert", "noise", "blur"), 0),
    "geometry": "deep-retina",
    "gamma": 1,
    "aspect": 1.3,
    "rotation": 10,
    "channel_shift": 15,
}
"""Values that make an `Augmentation` the original's of step 1."""
