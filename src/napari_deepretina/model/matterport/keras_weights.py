"""Weights files of Keras (.h5) into networks of ours and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from napari_deepretina import __version__
from napari_deepretina.errors import UserError
from napari_deepretina.files import written_whole
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.matterport.coco_names import COCO_NAMES
from napari_deepretina.model.matterport.network import BLOCKS, MatterportRCNN
from napari_deepretina.model.weights import WeightsInfo, normalisation_of

HEADS = ("mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_mask")
"""Output layers, which depend on the classes: what the original leaves out of a COCO file."""
FOR_COCO = {"anchor_sizes": (32, 64, 128, 256, 512), "short_side": 800, "resize": "square"}
"""What Matterport's own configuration for COCO has otherwise than Deep Retina's."""
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
    path: Path, *, exclude: Sequence[str] = (), classes: Sequence[str] = (), **described: Any
) -> Imported:
    """Read a Matterport weights file, of training or inference, saved as weights or as a model.

    Parameters
    ----------
    path : HDF5 file.
    exclude : layers to leave random; ``heads`` stands for `HEADS`.
    **described : fields of `Architecture` that no file tells: ``anchor_sizes``, ``short_side``,
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
    architecture = _architecture(path, weights, left, tuple(classes), described)
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


def classes_in(path: Path) -> int | None:
    """How many classes a file tells apart, background left out; None where it lacks that layer."""
    kernel = read_keras(path).get("mrcnn_class_logits/kernel:0")
    return None if kernel is None else int(kernel.shape[-1]) - 1


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
    """What the header of an imported file says: advice as the original is configured."""
    architecture = imported.network.architecture
    coco = architecture.classes == COCO_NAMES
    return WeightsInfo(
        name=name,
        architecture=architecture,
        normalisation=normalisation_of(architecture),
        data=f"imported from {source}"
        + (f" without {', '.join(imported.missing)}" if imported.missing else ""),
        version=__version__,
        licence="that of the file it was imported from",
        postprocess={"score": 0.7 if coco else 0.9, "nms": 0.3 if coco else 0.2, "min_area": 1},
    )


def read_keras(path: Path) -> Weights:
    """All weights of a file as ``layer/weight:0`` → array, whatever groups they lie in."""
    import h5py

    found: Weights = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            key = "/".join(name.split("/")[-2:])
            if item.dtype.kind != "f":
                raise UserError(f"{path}: {name} holds {item.dtype}, numbers were expected")
            found[key] = np.asarray(item[()], np.float32)
            if not np.isfinite(found[key]).all():
                raise UserError(f"{path}: {name} holds values that are infinite or not a number")

    try:
        with h5py.File(path, "r") as file:
            group = file.get("model_weights", file)
            group.visititems(visit)
    except OSError as error:
        raise UserError(f"{path} cannot be read as HDF5: {error}") from None
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
    with written_whole(path) as part, h5py.File(part, "w") as file:
        file.attrs["layer_names"] = np.array([n.encode() for n in groups])
        file.attrs["backend"], file.attrs["keras_version"] = np.bytes_("tensorflow"), np.bytes_("2.1.6")
        for layer, weights in groups.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([n.encode() for n in weights])
            for name, value in weights.items():
                group.create_dataset(name, data=value)


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


def _architecture(
    path: Path, weights: Weights, left: set[str], classes: tuple[str, ...], described: dict[str, Any]
) -> Architecture:
    """What the shapes in a file tell of its network."""

    def channels(layer: str, axis: int = -1) -> int:
        name = f"{layer}/kernel:0"
        if name not in weights:
            raise UserError(f"{path} is not a Mask R-CNN of Matterport: {name} is missing")
        return int(weights[name].shape[axis])

    depth = len({n.split("_")[0] for n in weights if n.startswith("res4")})
    known = {blocks[2]: name for name, blocks in BLOCKS.items()}
    if depth not in known:
        raise UserError(
            f"{path} is not a Mask R-CNN of Matterport: stage 4 has {depth} blocks, "
            f"{' or '.join(map(str, known))} were expected"
        )
    widths = [channels("conv1")]
    for stage in (2, 3, 4, 5):
        widths += [channels(f"res{stage}a_branch2a"), channels(f"res{stage}a_branch2c")]
    count = None if "mrcnn_class_logits" in left else channels("mrcnn_class_logits") - 1
    if count is not None and classes and len(classes) != count:
        raise UserError(f"{path} tells {count} classes apart, {len(classes)} names were given")
    told = {
        "backbone": known[depth],
        "classes": classes or _class_names(count or 1),
        "body_widths": tuple(widths),
        "fpn_channels": channels("fpn_p2"),
        "rpn_channels": channels("rpn_conv_shared"),
        "box_units": channels("mrcnn_class_conv1"),
        "mask_channels": channels("mrcnn_mask_conv1"),
        "roi_canonical_size": 224,
        **(FOR_COCO if count == len(COCO_NAMES) else {}),
        **described,
    }
    try:
        return Architecture.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {where}={first['input']!r}: {first['msg']}") from None


def _class_names(count: int) -> tuple[str, ...]:
    if count == len(COCO_NAMES):
        return COCO_NAMES
    return ("nucleus",) if count == 1 else tuple(f"class {k}" for k in range(1, count + 1))
