"""Weights files of Keras (.h5) into networks of ours and back."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_deepretina.errors import UserError
from napari_deepretina.files import written_whole
from napari_deepretina.intake import first_fault
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.matterport.keras_shapes import HEADS, architecture_of, described, refuse_unstored
from napari_deepretina.model.matterport.network import MatterportRCNN

_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_PLAIN = {"kernel": "weight", "bias": "bias"}
Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Imported:
    """A network filled from a file, and what became of every layer.

    Attributes
    ----------
    taken : layers filled from the file.
    left_out : names in the file that the network has no use for, or was told not to use.
    missing : layers that keep their random values.
    """

    network: MatterportRCNN
    taken: tuple[str, ...]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.taken)} layers taken: {', '.join(self.taken)}"]
        for what, names in (("left out", self.left_out), ("missing, random", self.missing)):
            lines.append(f"{len(names)} {what}" + (f": {', '.join(names)}" if names else ""))
        return "\n".join(lines)


def import_keras(
    path: Path, *, exclude: Sequence[str] = (), classes: Sequence[str] = (), **told: Any
) -> Imported:
    """Read a Matterport weights file, of training or inference, saved as weights or as a model.

    Parameters
    ----------
    path : HDF5 file.
    exclude : layers to leave random; ``heads`` stands for `HEADS`.
    **told : fields of `Architecture` that no file tells: ``anchor_sizes``, ``short_side``,
        ``long_side``, ``resize``. By default Deep Retina's, or Matterport's own for COCO's 80 classes.
    classes : names of the object classes; by default ``nucleus`` for one, COCO's for 80, else numbers. With
        the heads excluded, they may be any.

    Raises
    ------
    UserError
        If the file is unreadable or does not fit; the message names the first misfit.
    """
    weights = read_keras(path)
    left = {name for e in exclude for name in (HEADS if e == "heads" else (e,))}
    shapes = {name: value.shape for name, value in weights.items()}
    architecture = architecture_of(path, shapes, left, tuple(classes), told)
    if unknown := left - set(MatterportRCNN(architecture).layers):
        raise UserError(f"cannot exclude {sorted(unknown)[0]!r}: no layer has this name")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MatterportRCNN(architecture)
    try:
        used = fill(network, weights, left=left)
    except UserError as error:
        raise UserError(f"{path} does not fit {architecture.backbone}: {error}") from None
    return Imported(
        network.eval(),
        tuple(n for n in network.layers if n not in left),
        tuple(sorted(set(weights) - used)),
        tuple(n for n in network.layers if n in left),
    )


def fill(network: MatterportRCNN, weights: Weights, *, left: set[str], partly: bool = False) -> set[str]:
    """Put weights into a network, in place; the names that were used.

    Parameters
    ----------
    left : layers that stay as they are.
    partly : whether layers that the weights do not hold stay as they are, too.

    Raises
    ------
    UserError
        Naming the first weight that is missing or of the wrong shape.
    """
    used: set[str] = set()
    for layer, module in network.layers.items():
        for suffix, parameter in _names(module).items():
            name = f"{layer}/{suffix}:0"
            if layer in left or (partly and name not in weights):
                continue
            if name not in weights:
                raise UserError(f"{name} is missing")
            value, place = _to_torch(weights[name], module, suffix), getattr(module, parameter)
            if value.shape != place.shape:
                raise UserError(
                    f"{name} has shape {weights[name].shape}, "
                    f"{_keras_shape(place, module, suffix)} was expected"
                )
            place.data.copy_(value)
            used.add(name)
    return used


def info_of(imported: Imported, name: str, source: str) -> WeightsInfo:
    """What the header of an imported file says."""
    return described(imported.network.architecture, name, source, imported.missing)


def read_keras(path: Path) -> Weights:
    """All weights of a file as ``layer/weight:0`` → array, whatever groups they lie in."""
    import h5py

    found: Weights = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            key = "/".join(name.split("/")[-2:])
            refuse_unstored(path, name, item)
            if item.dtype.kind != "f":
                raise UserError(f"{path}: {name} holds {item.dtype}, numbers were expected")
            found[key] = np.asarray(item[()], np.float32)
            if not np.isfinite(found[key]).all():
                raise UserError(f"{path}: {name} holds values that are infinite or not a number")

    try:
        with h5py.File(path, "r") as file:
            group = file.get("model_weights", file)
            group.visititems(visit)
    except UserError:
        raise
    except Exception as error:
        # h5py raises all sorts of types on broken files; the reason is passed on.
        raise UserError(f"{path} cannot be read as HDF5: {first_fault(error)}") from None
    if not found:
        raise UserError(f"{path} holds no weights")
    return found


def export_keras(network: nn.Module, path: Path) -> None:
    """Write a file that Keras and Matterport's code can load, by name or in order.

    Raises
    ------
    UserError
        If the network is not one of Matterport's, or the file cannot be written.
    """
    import h5py

    if not isinstance(network, MatterportRCNN):
        raise UserError(
            "only weights of matterport_resnet50 and matterport_resnet101 can become a Keras file"
        )
    groups: dict[str, Weights] = {}
    for layer, module in network.layers.items():
        group = groups.setdefault("rpn_model" if layer.startswith("rpn_") else layer, {})
        for suffix, parameter in _names(module).items():
            value = getattr(module, parameter).detach().cpu().float()
            group[f"{layer}/{suffix}:0"] = _from_torch(value, module, suffix)
    content = io.BytesIO()  # HDF5 crashes the interpreter where the disk is full
    with h5py.File(content, "w") as file:
        file.attrs["layer_names"] = np.array([n.encode() for n in groups])
        file.attrs["backend"], file.attrs["keras_version"] = np.bytes_("tensorflow"), np.bytes_("2.1.6")
        for layer, weights in groups.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([n.encode() for n in weights])
            for name, value in weights.items():
                group.create_dataset(name, data=value)
    with written_whole(path) as part:
        part.write_bytes(content.getbuffer())


def _names(module: nn.Module) -> dict[str, str]:
    return _NORM if isinstance(module, nn.BatchNorm2d) else _PLAIN


def _order(module: nn.Module, suffix: str) -> tuple[int, ...]:
    """Axes of a Keras kernel in the order in which torch keeps them."""
    if suffix != "kernel":
        return (0,)
    return (1, 0) if isinstance(module, nn.Linear) else (3, 2, 0, 1)


def _to_torch(value: NDArray[np.float32], module: nn.Module, suffix: str) -> torch.Tensor:
    order = _order(module, suffix)
    return torch.from_numpy(value.transpose(order) if value.ndim == len(order) else value)


def _from_torch(value: torch.Tensor, module: nn.Module, suffix: str) -> NDArray[np.float32]:
    return np.ascontiguousarray(value.numpy().transpose(np.argsort(_order(module, suffix))))


def _keras_shape(place: torch.Tensor, module: nn.Module, suffix: str) -> tuple[int, ...]:
    order = np.argsort(_order(module, suffix))
    return tuple(int(place.shape[k]) for k in order)
