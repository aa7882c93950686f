"""The annotated sets that weights are trained and judged on, and how their licences ask them to be named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_deepretina.data import Dataset, Subset, open_dataset
from napari_deepretina.data.joined import JoinedDataset

ATTRIBUTION = {
    "stage1": "2018 Data Science Bowl, stage 1: Caicedo et al., Nature Methods 16 (2019), "
    "doi 10.1038/s41592-019-0612-7; CC0",
    "nuinsseg": "NuInsSeg: Mahbod et al., Scientific Data 11, 295 (2024), "
    "doi 10.1038/s41597-024-03117-2; CC BY 4.0",
    "tnbc": "TNBC: Naylor et al., IEEE TMI 38(2) (2019), doi 10.5281/zenodo.1175282; CC BY 4.0",
    "kromp": "Kromp et al., Scientific Data 7, 262 (2020), doi 10.1038/s41597-020-00608-w; CC0",
    "aitslab": "Arvidsson et al., Data in Brief 46 (2022) 108769, doi 10.5281/zenodo.6657260; CC BY 4.0",
    "aisegcell": "aiSEGcell: Schirmacher et al., PLoS Computational Biology (2024), "
    "doi 10.1371/journal.pcbi.1012361; CC BY 4.0",
    "brifiseg": "BriFiSeg: Gendarme et al., arXiv 2211.03072; Apache-2.0",
}
"""By the beginning of a file's name."""


def attribution_of(paths: Sequence[str]) -> tuple[str, ...]:
    """What to say of some of the sets; of others their file's name."""
    told = []
    for path in paths:
        name = Path(path).name
        told.append(next((text for start, text in ATTRIBUTION.items() if name.startswith(start)), name))
    return tuple(told)


def part_of(path: str, part: str, *, most: int | None = None) -> Dataset:
    """Images of a part of a set, evenly spread ones where there are more than `most`."""
    dataset, split = open_dataset(path)
    if split is None:
        raise SystemExit(f"{path} has no split")
    names = list(split.part(part))
    if most is not None and len(names) > most:
        names = [names[k * len(names) // most] for k in range(most)]
    return Subset(dataset, names)


def all_of(paths: Sequence[str], part: str, *, most: int | None = None) -> Dataset:
    """The same of several sets together."""
    return JoinedDataset([part_of(path, part, most=most) for path in paths])
