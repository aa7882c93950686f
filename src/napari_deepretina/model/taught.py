"""Taught heads: a small file of differences to the weights that they were taught on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from napari_deepretina.errors import UserError
from napari_deepretina.model.weights import WeightsInfo, available, sha256_of, write_tensors

if TYPE_CHECKING:
    import torch


def save_taught(differences: Mapping[str, torch.Tensor], info: WeightsInfo, path: Path) -> None:
    """Write taught heads in half precision, under the file's name.

    Parameters
    ----------
    differences : to the weights of the base, by the names that these have there.
    info : of the taught network.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    write_tensors(differences, info.model_copy(update={"name": path.stem}), path)


def base_file(path: Path, info: WeightsInfo) -> Path:
    """The weights that a taught file was taught on: known by name, or in the same folder.

    Raises
    ------
    UserError
        If they are not at hand, or are not what they were.
    """
    assert info.taught is not None
    for found in _candidates(path, info.taught.base):
        if sha256_of(found) == info.taught.sha256:
            return found
    raise UserError(
        f"{path} was taught on weights {info.taught.base!r} (SHA-256 {info.taught.sha256[:12]}…), which are "
        f"not at hand: put that file beside it, as {info.taught.base}.safetensors"
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
    """Weights of the base with what was taught; UserError if the differences are of another network."""
    for name, value in differences.items():
        if name not in base or base[name].shape != value.shape:
            raise UserError(f"{path} does not fit the weights that it was taught on: {name} differs in shape")
    return {name: value + differences[name] if name in differences else value for name, value in base.items()}
