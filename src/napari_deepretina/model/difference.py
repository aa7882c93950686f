"""Weights kept as what differs from others: tensor by tensor, whole or as the product of two thin matrices.

Taught heads are kept so, and specialists for some kind of image: a file of theirs names the weights that it
belongs to, and holds nothing that stands there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from napari_deepretina.errors import UserError
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.weights import available, sha256_of, write_tensors

if TYPE_CHECKING:
    import torch

UP, DOWN = ".up", ".down"
"""Ends of the names of factors: (rows, R) times (R, all other axes) is what the tensor differs by."""
LEAST = 20_000
"""Tensors of fewer numbers are kept whole: factors would spare nothing."""


def save_difference(differences: Mapping[str, torch.Tensor], info: WeightsInfo, path: Path) -> None:
    """Write differences in half precision, under the file's name.

    Parameters
    ----------
    differences : to the weights that `info` says, by the names that these have there; or factors of them.
    info : of the network that comes of it.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    write_tensors(differences, info.model_copy(update={"name": path.stem}), path)


def base_file(path: Path, info: WeightsInfo) -> Path:
    """The weights that a file differs from: known by name, or in the same folder.

    Raises
    ------
    UserError
        If they are not at hand, or are not what they were.
    """
    wanted = info.differs_from
    assert wanted is not None
    for found in _candidates(path, wanted.base):
        if sha256_of(found) == wanted.sha256:
            return found
    made = "was taught on" if info.taught else "belongs to"
    raise UserError(
        f"{path} {made} weights {wanted.base!r} (SHA-256 {wanted.sha256[:12]}…), which are "
        f"not at hand: put that file beside it, as {wanted.base}.safetensors"
    )


def _candidates(path: Path, name: str) -> Iterator[Path]:
    """Those of the right name first."""
    beside = path.parent / f"{name}.safetensors"
    known = available()
    if beside.is_file() and beside != path:
        yield beside
    yield from (p for n, p in known.items() if n == name)
    yield from (p for n, p in known.items() if n != name and p != path)


def added(
    base: Mapping[str, torch.Tensor], differences: Mapping[str, torch.Tensor], path: Path
) -> dict[str, torch.Tensor]:
    """Weights of the base with their differences added.

    Raises
    ------
    UserError
        If the differences are of another network.
    """
    result = dict(base)
    for name, value in differences.items():
        if name.endswith(DOWN):
            continue
        stem = name.removesuffix(UP)
        down = differences.get(stem + DOWN) if name.endswith(UP) else None
        if stem not in base or not _fits(base[stem].shape, value, down):
            raise UserError(f"{path} does not fit the weights that it belongs to: {stem} differs in shape")
        change = value if down is None else value @ down
        result[stem] = base[stem] + change.view(base[stem].shape)
    return result


def _fits(shape: torch.Size, value: torch.Tensor, down: torch.Tensor | None) -> bool:
    """Whether a difference, or the product of two factors, has this shape; before memory is taken for it."""
    if down is None:
        return value.shape == shape
    return (
        value.ndim == down.ndim == 2 <= len(shape)
        and value.shape[1] == down.shape[0]
        and (len(value), down.shape[1]) == (shape[0], shape[1:].numel())
    )


def factored(differences: Mapping[str, torch.Tensor], numbers: int) -> dict[str, torch.Tensor]:
    """Differences in so many numbers at most: small tensors whole, large ones as factors.

    Of all singular values those are kept that explain most for the numbers that they take.

    Parameters
    ----------
    differences : of the floating-point weights, by name.
    numbers : how many may be kept.
    """
    import torch

    small = {name: d for name, d in differences.items() if d.ndim < 2 or d.numel() < LEAST}
    parts = {name: torch.linalg.svd(d.flatten(1), full_matrices=False)
             for name, d in differences.items() if name not in small}  # fmt: skip
    worth = sorted(
        ((value / (len(up) + down.shape[1]), len(up) + down.shape[1], name)
         for name, (up, values, down) in parts.items() for value in values.square().tolist()),
        reverse=True,
    )  # fmt: skip
    left = numbers - sum(d.numel() for d in small.values())
    ranks = dict.fromkeys(parts, 0)
    for _, price, name in worth:
        if price > left:
            break
        left -= price
        ranks[name] += 1
    result = dict(small)
    for name, rank in ranks.items():
        up, values, down = parts[name]
        if rank:
            root = values[:rank].sqrt()
            result[name + UP], result[name + DOWN] = up[:, :rank] * root, root[:, None] * down[:rank]
    return result
