"""What a Keras file of Matterport's tells of its network, from names and shapes alone: nothing of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from napari_deepretina import __version__
from napari_deepretina.errors import UserError
from napari_deepretina.intake import believed, first_fault
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.header import WeightsInfo, normalisation_of
from napari_deepretina.model.matterport.coco_names import COCO_NAMES

BLOCKS = {"matterport_resnet50": (3, 4, 6, 3), "matterport_resnet101": (3, 4, 23, 3)}
"""Blocks of the four stages of each backbone."""
HEADS = ("mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_mask")
"""Output layers, which depend on the classes: what the original leaves out of a COCO file."""
FOR_COCO = {"anchor_sizes": (32, 64, 128, 256, 512), "short_side": 800, "resize": "square"}
"""What Matterport's own configuration for COCO has otherwise than Deep Retina's."""
Shapes = dict[str, tuple[int, ...]]


def shapes_in(path: Path) -> Shapes:
    """Shapes of all weights of a file as ``layer/weight:0`` → shape; no weight is read.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    import h5py

    found: Shapes = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            refuse_unstored(path, name, item)
            found["/".join(name.split("/")[-2:])] = tuple(item.shape)

    try:
        with h5py.File(path, "r") as file:
            file.get("model_weights", file).visititems(visit)
    except UserError:
        raise
    except Exception as error:
        # h5py raises all sorts of types on broken files; the reason is passed on.
        raise UserError(f"{path} cannot be read as HDF5: {first_fault(error)}") from None
    return found


def refuse_unstored(path: Path, name: str, item: Any) -> None:
    """UserError for a data set that lies in another file, or that declares more than the file holds of it."""
    if item.external or item.is_virtual:
        raise UserError(f"{path}: {name} lies in another file, which is not opened")
    believed(item.size * max(4, item.dtype.itemsize), item.id.get_storage_size(), f"{path}: {name}")


def classes_in(path: Path) -> int | None:
    """How many classes a file tells apart, background left out; None where it lacks that layer."""
    shape = shapes_in(path).get("mrcnn_class_logits/kernel:0")
    return None if shape is None else shape[-1] - 1


def keras_info(path: Path) -> WeightsInfo:
    """What the header of a file would say, were it one of ours; UserError if it is none of Matterport's."""
    return described(architecture_of(path, shapes_in(path), set(), (), {}), path.stem, path.name)


def described(
    architecture: Architecture, name: str, source: str, missing: tuple[str, ...] = ()
) -> WeightsInfo:
    """The header of imported weights: advice as the original is configured.

    Parameters
    ----------
    missing : layers that were left out.
    """
    coco = architecture.classes == COCO_NAMES
    return WeightsInfo(
        name=name,
        architecture=architecture,
        normalisation=normalisation_of(architecture),
        data=f"imported from {source}" + (f" without {', '.join(missing)}" if missing else ""),
        version=__version__,
        licence="that of the file it was imported from",
        postprocess={"score": 0.7 if coco else 0.9, "nms": 0.3 if coco else 0.2, "min_area": 1},
    )


def architecture_of(
    path: Path, shapes: Shapes, left: set[str], classes: tuple[str, ...], described: dict[str, Any]
) -> Architecture:
    """What the shapes in a file tell of its network."""

    def channels(layer: str, axis: int = -1) -> int:
        name = f"{layer}/kernel:0"
        if name not in shapes:
            raise UserError(f"{path} is not a Mask R-CNN of Matterport: {name} is missing")
        return int(shapes[name][axis])

    depth = len({n.split("_")[0] for n in shapes if n.startswith("res4")})
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
