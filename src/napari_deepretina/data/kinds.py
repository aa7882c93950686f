"""What kind of picture an image is, told from its pixels and its labels."""

from __future__ import annotations

from typing import Literal

from napari_deepretina.data.normalise import normalise
from napari_deepretina.data.sample import Sample

Kind = Literal["bright on dark", "dark on bright", "stained tissue"]


def kind_of(sample: Sample) -> Kind:
    """Stained tissue has colours; else nuclei are brighter or darker than what is around them.

    An image without nuclei, or full of them, counts as bright on dark.
    """
    import torch

    from napari_deepretina.data.stains import coloured

    image, inside = sample.image, sample.labels > 0
    pixels = normalise(image)
    if coloured(torch.from_numpy(pixels).movedim(2, 0)):
        return "stained tissue"
    if inside.all() or not inside.any():
        return "bright on dark"
    grey = pixels[..., 0]
    return "dark on bright" if grey[inside].mean() < grey[~inside].mean() else "bright on dark"
