"""Weights files: safetensors whose header tells everything needed to use and to judge them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_deepretina.errors import UserError
from napari_deepretina.files import written_whole
from napari_deepretina.model.architecture import Architecture, Limits
from napari_deepretina.model.rescoring import Rescoring

if TYPE_CHECKING:
    import torch

    from napari_deepretina.model.network import Network

BUNDLED = Path(__file__).parent.parent / "weights"
DEFAULT = "nuclei"
_KEY = "napari-deepretina"


class WeightsInfo(BaseModel):
    """What the header of a weights file says."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    architecture: Architecture
    normalisation: str = "percentile 1-99.8 to 0-1"
    diameter: float = Field(default=32.0, gt=0)
    """Median nucleus diameter in the training images, in pixels of the network's input."""
    data: str = ""
    score: dict[str, float] = {}
    """Validation figures, e.g. ``{"dsb_score": 0.5}``."""
    recipe: str = ""
    steps: int = 0
    version: str = ""
    """Version of the package that wrote the file."""
    licence: str = "BSD-3-Clause"
    attribution: tuple[str, ...] = ()
    """The data sets that it was trained on, as their licences ask them to be named."""
    postprocess: dict[str, float] = {}
    """Settings of post-processing that suit these weights."""
    rescoring: Rescoring | None = None
    """How the network's scores are seen in the light of the other detections; None leaves them."""


@dataclass(frozen=True)
class LoadedModel:
    """A network in evaluation mode with its description, on a device."""

    network: Network
    info: WeightsInfo
    path: Path
    sha256: str
    device: torch.device

    def limits(self, asked: Limits | None = None) -> Limits:
        """The limits asked for; those of what is rescored where the weights rescore."""
        asked = asked or Limits()
        return self.info.rescoring.limits(asked) if self.info.rescoring else asked

    def to(self, device: torch.device) -> LoadedModel:
        """The same model on another device; the network moves, it is not copied."""
        return LoadedModel(self.network.to(device), self.info, self.path, self.sha256, device)


def user_folder() -> Path:
    """Where a person's own weights are found by name; it need not exist."""
    import platformdirs

    return Path(platformdirs.user_data_dir("napari-deepretina", appauthor=False)) / "weights"


def available() -> dict[str, Path]:
    """Weights known by name: the bundled ones, the default first, then a person's own, which win."""
    found: dict[str, Path] = {}
    for folder in (BUNDLED, user_folder()):
        found |= {p.stem: p for p in sorted(folder.glob("*.safetensors"), key=lambda p: p.stem)}
    return found


def find(name_or_path: str | Path) -> Path:
    """The file behind a name or path.

    Raises
    ------
    UserError
        If there is none; the message lists the known names.
    """
    known = available()
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    names = ", ".join(known) or "none"
    raise UserError(f"no weights {str(name_or_path)!r}: give a file that exists or a known name ({names})")


def read_info(path: Path) -> WeightsInfo:
    """The header alone; UserError if the file is not one of ours or is damaged."""
    _, header = _open(path, tensors=False)
    return header


def advised_score(name_or_path: str | Path) -> float | None:
    """Score threshold that a weights file recommends; None if it has none or cannot be read."""
    try:
        return read_info(find(name_or_path)).postprocess.get("score")
    except UserError:
        return None


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_model(name_or_path: str | Path = DEFAULT, device: str | torch.device = "cpu") -> LoadedModel:
    """Build the network that a weights file describes and fill it.

    Parameters
    ----------
    name_or_path : a name from `available`, or a ``.safetensors`` file of ours.
    device : where the network goes.

    Raises
    ------
    UserError
        If the file is missing, truncated, of another kind (pickles are never opened), or does not
        fit the network that it describes.
    """
    import torch

    from napari_deepretina.model.network import build

    path = find(name_or_path)
    tensors, info = _open(path, tensors=True)
    network = build(info.architecture)
    try:
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"{path} does not fit the network that it describes: {first}") from None
    network = network.eval().to(device=torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedModel(network, info, path, sha256_of(path), torch.device(device))


def save_weights(
    state: Mapping[str, torch.Tensor], info: WeightsInfo, path: Path, *, half: bool = True
) -> None:
    """Write a weights file: beside the destination first, then renamed.

    Parameters
    ----------
    state : the network's state_dict.
    half : store floating tensors as float16, not as they are.
    """
    import torch
    from safetensors.torch import save

    stored = {
        k: (v.half() if half and v.is_floating_point() else v).detach().cpu().contiguous()
        for k, v in state.items()
    }
    if any(not torch.isfinite(v).all() for v in stored.values()):
        raise UserError(f"{path} was not written: some weights are infinite or not a number")
    content = save(stored, metadata={_KEY: info.model_dump_json()})
    with written_whole(path) as part:
        part.write_bytes(content)


def _open(path: Path, *, tensors: bool) -> tuple[dict[str, Any], WeightsInfo]:
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if head[:2] == b"\x89H":
        raise UserError(
            f"{path} is a Keras file; make it ours first with "
            f"'napari-deepretina weights import {path} NEW.safetensors'"
        )
    # The first eight bytes of a safetensors file are the length of its header, and may begin with anything.
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[8:] != b"{"):
        raise UserError(
            f"{path} is a pickle, which may run any code when opened, so it is not opened; "
            "use a .safetensors file written by napari-deepretina"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_KEY)
            if header is None:
                raise UserError(
                    f"{path} was not written by napari-deepretina: its header does not describe a network"
                )
            info = WeightsInfo.model_validate(json.loads(header))
            names = file.keys() if tensors else ()
            values = {k: file.get_tensor(k) for k in names}
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from None
    except (ValidationError, json.JSONDecodeError) as error:
        raise UserError(f"{path} describes a network that this version does not know: {error}") from None
    return values, info
