"""Whether data can be trained on, looked at before hours are spent on them."""

from __future__ import annotations

import numpy as np

from napari_deepretina.data.sample import Dataset
from napari_deepretina.errors import UserError

MOST_LOOKED_AT = 300
"""Images of a set that are read; of a larger one so many, evenly spread."""
_TOLD = 3


def spread(count: int, most: int) -> list[int]:
    """At most so many of `count` positions, evenly spread; all for 0."""
    if not most or count <= most:
        return list(range(count))
    places: list[int] = np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()
    return places


def check_data(train: Dataset, val: Dataset) -> list[str]:
    """Read images and labels, and say what a person should know.

    Returns
    -------
    Notes: sizes, and how many images have no nuclei.

    Raises
    ------
    UserError
        If images cannot be read, or none has a nucleus in its labels; all that is wrong is told together.
    """
    notes: list[str] = []
    problems: list[str] = []
    for what, dataset in (("to train on", train), ("to validate on", val)):
        if not len(dataset):
            continue
        looked = spread(len(dataset), MOST_LOOKED_AT)
        bad: list[str] = []
        sizes: list[tuple[int, ...]] = []
        empty = 0
        for index in looked:
            try:
                sample = dataset[index]
            except UserError as error:
                bad.append(str(error))
                continue
            except OSError as error:
                bad.append(f"{dataset.names[index]} cannot be read: {error.strerror or error}")
                continue
            sizes.append(sample.labels.shape)
            empty += not sample.labels.any()
        if bad:
            more = f", and {len(bad) - _TOLD} more" if len(bad) > _TOLD else ""
            problems.append(f"{len(bad)} images {what} cannot be used: {'; '.join(bad[:_TOLD])}{more}")
        elif empty == len(looked) and what == "to train on":
            problems.append(
                f"none of the {len(looked)} images {what} has a nucleus in its labels: are the masks "
                "missing, as in a set for testing?"
            )
        elif empty:
            notes.append(f"{empty} of {len(looked)} images {what} have no nuclei in their labels")
        if sizes and len(set(sizes)) > 1:
            least, most = (pick(sizes, key=np.prod) for pick in (min, max))
            notes.append(
                f"images {what} have {len(set(sizes))} sizes, from {least[1]}×{least[0]} to "
                f"{most[1]}×{most[0]}"
            )
    if problems:
        raise UserError("; ".join(problems))
    return notes
