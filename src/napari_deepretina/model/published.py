"""Weights that others published: found in the user's folder, or fetched once with a checked hash."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from napari_deepretina.errors import UserError
from napari_deepretina.files import moved, remove
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.matterport.coco_names import COCO_NAMES
from napari_deepretina.model.matterport.keras_shapes import HEADS
from napari_deepretina.model.matterport.keras_weights import fill, read_keras
from napari_deepretina.model.weights import user_folder

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deepretina.model.network import MaskRCNN, Network

COCO_FULL, IMAGENET = "coco", "imagenet"


@dataclass(frozen=True)
class Published:
    """A file of somebody else's: its name, address and hash as pooch writes it."""

    name: str
    url: str
    known_hash: str


MATTERPORT = {
    COCO_FULL: Published(
        "mask_rcnn_coco.h5",
        "https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5",
        "md5:e98aaff6f99e307b5e2a8a3ff741a518",
    ),
    IMAGENET: Published(
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "https://github.com/fchollet/deep-learning-models/releases/download/v0.2/"
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5:a268eb855778b3df3c7506639542a6af",
    ),
}


def published_folder() -> Path:
    """Where files of others are looked for, and kept once they were fetched; it need not exist."""
    return user_folder().parent / "published"


def fetch(file: Published, *, folder: Path | None = None, quiet: bool = False) -> Path:
    """The file in the user's folder, fetched if it is not there yet.

    A download that was cut off is gone on with where it stopped; the file gets its name when its hash is
    right. One that lies there already is checked, too: if it is another, it is fetched anew and takes its
    place, the other one being kept as ``<name>.other``.

    Raises
    ------
    UserError
        If it cannot be fetched, or is not the file that was published; the message tells where to put it.
    """
    folder = folder or published_folder()
    target = folder / file.name
    if _is_right(target, file):
        return target
    part = target.with_name(f"{file.name}.part")
    remedy = f"fetch {file.url} in a browser and put it into {folder}"
    found = f"{target} is not the file that was published, and it" if target.is_file() else file.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _is_right(part, file):
            _download(file, part, quiet=quiet)
    except (OSError, ValueError) as error:
        raise UserError(f"{found} could not be fetched ({_first(error)}); {remedy}") from None
    if not _is_right(part, file):
        remove(part)
        raise UserError(f"what came from {file.url} is not the file that was published; {remedy}")
    if target.is_file() and target.stat().st_size:
        moved(target, target.with_name(f"{file.name}.other"))
    moved(part, target)
    return target


def _is_right(path: Path, file: Published) -> bool:
    """Whether a file is there and has the published hash."""
    import pooch

    kind, _, expected = file.known_hash.partition(":")
    return path.is_file() and path.stat().st_size > 0 and pooch.file_hash(str(path), alg=kind) == expected


def _download(file: Published, part: Path, *, quiet: bool) -> None:
    """Append what is missing of a file; what a server sends that knows no ranges is the whole."""
    import pooch

    begun = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={begun}-"} if begun else {}
    rest = part.with_name(f"{part.name}2") if begun else part
    kind = pooch.FTPDownloader if file.url.startswith("ftp") else pooch.HTTPDownloader
    options: dict[str, Any] = {} if kind is pooch.FTPDownloader else {"headers": headers}
    downloader = kind(progressbar=not quiet and _has_tqdm(), **options)
    try:
        downloader(file.url, str(rest), None)
    except (OSError, ValueError):
        if not begun:
            raise
        remove(rest)
        remove(part)  # a server may refuse to go on with what is there: begin anew
        downloader = kind(progressbar=not quiet and _has_tqdm())
        downloader(file.url, str(part), None)
        return
    if not begun:
        return
    if _is_right(rest, file):
        moved(rest, part)
        return
    with part.open("ab") as whole, rest.open("rb") as more:
        shutil.copyfileobj(more, whole)
    remove(rest)


def _has_tqdm() -> bool:
    try:
        import tqdm  # noqa: F401
    except ImportError:
        return False
    return True


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__


def start_from_published(kind: str, network: Network) -> WeightsInfo:
    """Fill a fresh network with published weights, but for what depends on classes where those are others.

    Parameters
    ----------
    kind : ``coco`` (Mask R-CNN trained on MS COCO) or ``imagenet`` (the backbone alone).
    network : changed in place; what the file does not hold stays random.

    Raises
    ------
    UserError
        If the file cannot be had, or there is none for this backbone.
    """
    from napari_deepretina.model.network import MaskRCNN

    architecture: Architecture = network.architecture
    if not isinstance(network, MaskRCNN):
        weights = read_keras(fetch(MATTERPORT[kind]))
        left = set() if architecture.classes == COCO_NAMES else set(HEADS)
        fill(network, weights, left=left, partly=True)
    elif architecture.width != 1:
        raise UserError(
            f"torchvision published no weights for a {architecture.backbone} of {architecture.width:g} times "
            "its width; use width 1, or start from 'random'"
        )
    elif kind == IMAGENET:
        body = torchvision_state(architecture.backbone)
        network.backbone.get_submodule("body").load_state_dict(
            {k: v for k, v in body.items() if not k.startswith("fc.")}
        )
    else:
        if architecture.backbone != "resnet50":
            raise UserError(
                f"torchvision published no Mask R-CNN with {architecture.backbone}; "
                "use backbone resnet50 or matterport_resnet101, or start from imagenet"
            )
        fill_from_torchvision(network, torchvision_state("maskrcnn_resnet50_fpn"))
    return WeightsInfo(name=kind, architecture=architecture)


def torchvision_state(name: str) -> dict[str, Tensor]:
    """State of a model that torchvision published, fetched once with a checked hash."""
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)
    chosen = weights.COCO_V1 if hasattr(weights, "COCO_V1") else weights.DEFAULT
    try:
        state: dict[str, Tensor] = chosen.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError) as error:
        raise UserError(
            f"torchvision's weights for {name} could not be fetched ({error}); connect to the internet "
            "once, or start from 'bundled' or 'random'"
        ) from None
    return state


_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
"""Numbers below 91 that COCO gives to no category: torchvision's output layers have a row for each."""


def _of_80(value: Tensor) -> Tensor:
    """Output rows of background and COCO's 80 categories, of a tensor with rows for 91 numbers."""
    if value.ndim == 0 or len(value) not in (91, 4 * 91):
        return value
    rows = [n for n in range(91) if n not in _UNUSED]
    return value.reshape(91, -1, *value.shape[1:])[rows].reshape(-1, *value.shape[1:])


def fill_from_torchvision(network: MaskRCNN, state: dict[str, Tensor]) -> list[str]:
    """Take over torchvision's ``maskrcnn_resnet50_fpn``; names of our tensors that stay random.

    Our pyramid and mask head have a batch-norm where theirs have a bias: it becomes the norm's shift.
    """
    ours = network.state_dict()
    if network.architecture.classes == COCO_NAMES:
        state = {name: _of_80(value) for name, value in state.items()}
    renamed = {"proposals": "rpn", "regions": "roi_heads"}
    filled: dict[str, Tensor] = {}
    for name in ours:
        first, _, rest = name.partition(".")
        theirs = f"{renamed.get(first, first)}.{rest}"
        if theirs not in state and theirs.endswith(".1.bias"):
            theirs = f"{theirs.removesuffix('1.bias')}0.bias"
        value = state.get(theirs)
        if value is not None and value.shape == ours[name].shape:
            filled[name] = value
    network.load_state_dict({**ours, **filled})
    kept = set(ours) - set(filled)
    return sorted(n for n in kept if not n.endswith("num_batches_tracked"))
