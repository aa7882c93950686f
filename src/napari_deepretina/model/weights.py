"""Weights files: safetensors whose header tells everything needed to use and to judge them."""

from __future__ import annotations

import functools
import hashlib
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from napari_deepretina.errors import UserError
from napari_deepretina.files import expanded, user_data_folder, written_whole
from napari_deepretina.heap import keep_blocks
from napari_deepretina.intake import first_fault, parse_json
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.precision import resolve_precision
from napari_deepretina.model.runs import LAST, find_run, weights_in

if TYPE_CHECKING:
    import torch

    from napari_deepretina.model.network import Detecting, Network

BUNDLED = Path(__file__).parent.parent / "weights"
DEFAULT = "nuclei"
BESIDE = "-tissue"
"""What the name of a specialist's file has more than that of the weights that it goes with."""
_ONE_AT_A_TIME = threading.Lock()
_KEY = "napari-deepretina"


class Beside(NamedTuple):
    """The file of a specialist, and its SHA-256."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class LoadedModel:
    """A network with its description, and where and how it detects.

    Attributes
    ----------
    network : the one that was trained, on the CPU where it was loaded. One of Matterport's detects by itself,
        and is where `detector` is.
    device : where `detector` is.
    precision : float32, bfloat16 or float16: of the detector's weights and maps.
    beside : a specialist for some of the images, if there is one.
    named : of a specialist the model that it was chosen for.
    """

    network: Network
    info: WeightsInfo
    path: Path
    sha256: str
    device: torch.device
    precision: str = "float32"
    beside: Beside | None = None
    named: LoadedModel | None = None

    @functools.cached_property
    def detector(self) -> Detecting:
        """What detects: made of the network when it is first asked for."""
        import torch

        keep_blocks()
        return self.network.for_inference(getattr(torch, self.precision)).to(self.device)

    def limits(self, asked: Limits | None = None) -> Limits:
        """The limits asked for; those of what is rescored where the weights rescore."""
        asked = asked or Limits()
        return self.info.rescoring.limits(asked) if self.info.rescoring else asked

    def for_tissue(self, tissue: bool = True) -> LoadedModel:
        """The model for tissue and unstained cells: the specialist's, if there is one, else itself."""
        if self.beside is None or not tissue:
            return self
        with _ONE_AT_A_TIME:
            return self._specialist

    @functools.cached_property
    def _specialist(self) -> LoadedModel:
        """Loaded when the first image comes that needs it."""
        assert self.beside is not None
        model = replace(load_model(self.beside.path, self.device, self.precision), named=self)
        _ = model.detector  # made once, before several threads ask for it
        return model

    @property
    def identity(self) -> str:
        """SHA-256 of the file, and of the specialist's, if there is one: what results depend on."""
        return _identity(self.sha256, self.beside)

    def told(self) -> dict[str, str]:
        """Name, file name and SHA-256 of the weights asked for, and of the specialist that looked."""
        asked = self.named or self
        told = {"name": asked.info.name, "path": asked.path.name, "sha256": asked.sha256}
        if asked is not self:
            told |= {"specialist": self.info.name, "specialist_sha256": self.sha256}
        return told

    def to(self, device: torch.device) -> LoadedModel:
        """The same model on another device; the detector moves, it is not copied."""
        moved = replace(self, device=device)
        moved.__dict__["detector"] = self.detector.to(device)
        return moved


def user_folder() -> Path:
    """Where a person's own weights are found by name; it need not exist."""
    return user_data_folder() / "weights"


def available() -> dict[str, Path]:
    """Weights known by name: the bundled ones, the default first, then a person's own, which win."""
    found: dict[str, Path] = {}
    for folder in (BUNDLED, user_folder()):
        found |= {p.stem: p for p in sorted(folder.glob("*.safetensors"), key=lambda p: p.stem)}
    return found


def find(name_or_path: str | Path) -> Path:
    """The file behind a name, a file, the folder or the name of a run, or ``last`` for the last run.

    Raises
    ------
    UserError
        If there is none; the message lists the known names.
    """
    known, name = available(), str(name_or_path)
    if name in known:
        return known[name]
    path = expanded(name)
    if path.is_file():
        return path
    if path.is_dir():
        if (found := weights_in(path)) is not None:
            return found
        raise UserError(f"the folder {path} holds no weights: give a weights file, or the folder of a run")
    if (run := find_run(name)) is not None:
        return weights_in(run) or run
    if name == LAST:
        raise UserError("there is no last run with weights: give a weights file, or train first")
    names = ", ".join(known) or "none"
    raise UserError(
        f"no weights {name!r}: give a file that exists, a run's folder or name, or a known name ({names})"
    )


def read_info(path: Path) -> WeightsInfo:
    """The header alone, or what a Keras file tells; UserError if it is neither or is damaged."""
    if is_keras(path):
        told = path.stat()
        return _keras_info(path, told.st_mtime_ns, told.st_size)
    _, header = _open(path, tensors=False)
    return header


def is_keras(path: Path) -> bool:
    """Whether a file is HDF5, as Keras keeps weights."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x89HDF"
    except OSError:
        return False


@functools.lru_cache(maxsize=8)
def _keras_info(path: Path, *_: int) -> WeightsInfo:
    """Kept for as long as the file is the same."""
    from napari_deepretina.model.matterport.keras_shapes import keras_info

    return keras_info(path)


def advised_score(name_or_path: str | Path) -> float | None:
    """Score threshold that a weights file recommends; None if it has none or cannot be read."""
    try:
        return read_info(find(name_or_path)).postprocess.get("score")
    except UserError:
        return None


def specialist_of(name_or_path: str | Path) -> Path | None:
    """The file of the specialist that weights come with; None if there is none, or they cannot be read."""
    try:
        found = beside(find(name_or_path))
    except UserError:
        return None
    return found.path if found else None


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file's content; UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def identity_of(path: Path) -> str:
    """The same of weights in a file, without loading them."""
    digest = sha256_of(path)
    return _identity(digest, beside(path, digest))


def _identity(digest: str, specialist: Beside | None) -> str:
    return digest if specialist is None else f"{digest}+{specialist.sha256}"


def beside(path: Path, digest: str | None = None) -> Beside | None:
    """A specialist that was made for the very weights of this one; None if there is none.

    Parameters
    ----------
    digest : SHA-256 of the file, where it is known.
    """
    found = path.with_name(f"{path.stem}{BESIDE}.safetensors")
    if not found.is_file():
        return None
    made_for = read_info(found).specialist
    if made_for is None or made_for.sha256 != (digest or sha256_of(path)):
        return None
    return Beside(found, sha256_of(found))


def load_model(
    name_or_path: str | Path = DEFAULT, device: str | torch.device = "cpu", precision: str = "auto"
) -> LoadedModel:
    """Build the network that a weights file describes and fill it.

    Parameters
    ----------
    name_or_path : as `find` takes it; a ``.safetensors`` file of ours or a Keras file of Matterport's.
    device : where it detects.
    precision : in which it detects: auto, float32, bfloat16 or float16, see `resolve_precision`.

    Raises
    ------
    UserError
        If the file is missing, truncated, of another kind (pickles are never opened), or does not
        fit the network that it describes; or the precision cannot be had.
    """
    import torch

    from napari_deepretina.model.network import build

    path, device = find(name_or_path), torch.device(device)
    if is_keras(path):
        resolve_precision(precision, device, matterport=True)
        return _load_keras(path, device)
    tensors, info = _whole(path)
    _fits(path, tensors, info)
    _hold_numbers(path, tensors)
    precision = resolve_precision(precision, device, matterport=info.architecture.is_matterport)
    network = build(info.architecture)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"{path} does not fit the network that it describes: {first}") from None
    digest = sha256_of(path)
    return LoadedModel(network.eval(), info, path, digest, device, precision, beside(path, digest))


def _whole(path: Path) -> tuple[dict[str, torch.Tensor], WeightsInfo]:
    """The same as `_numbers`, of a whole network: what a file differs from is added."""
    from napari_deepretina.model.difference import added, base_file

    tensors, info = _numbers(path)
    if info.differs_from is not None:
        tensors = added(_whole(base_file(path, info))[0], tensors, path)
    return tensors, info


def _numbers(path: Path) -> tuple[dict[str, torch.Tensor], WeightsInfo]:
    """A file's tensors, floating ones as float32, and its header."""
    tensors, info = _open(path, tensors=True)
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, info


def _fits(path: Path, tensors: Mapping[str, torch.Tensor], info: WeightsInfo) -> None:
    """UserError if the tensors are not those of the network described, before memory is taken for it."""
    import torch

    from napari_deepretina.model.network import build

    with torch.device("meta"):
        expected = {name: value.shape for name, value in build(info.architecture).state_dict().items()}
    for name, shape in expected.items():
        if name not in tensors or tensors[name].shape != shape:
            there = f"has shape {tuple(tensors[name].shape)}" if name in tensors else "is missing"
            raise UserError(
                f"{path} does not fit the network that it describes: {name} {there}, {tuple(shape)} was "
                "expected"
            )


def _hold_numbers(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """UserError for weights that are not a number, or all zero: a network of such finds nothing, silently."""
    sizes = [float(v.abs().sum()) for v in tensors.values() if v.is_floating_point()]
    if not all(map(math.isfinite, sizes)):
        raise UserError(f"{path} is damaged: some weights are infinite or not a number")
    if not any(sizes):
        raise UserError(f"{path} is damaged: its weights are all zero")


def _load_keras(path: Path, device: torch.device) -> LoadedModel:
    from napari_deepretina.model.matterport.keras_weights import import_keras, info_of

    imported = import_keras(path)
    info = info_of(imported, path.stem, path.name)
    return LoadedModel(imported.network, info, path, sha256_of(path), device)


def save_weights(
    state: Mapping[str, torch.Tensor], info: WeightsInfo, path: Path, *, half: bool = True
) -> None:
    """Write a whole network: beside the destination first, then renamed.

    Parameters
    ----------
    state : the network's state_dict.
    half : store floating tensors as float16, not as they are.
    """
    write_tensors(state, info.model_copy(update={"taught": None, "specialist": None}), path, half=half)


def copy_with(path: Path, info: WeightsInfo, target: Path) -> None:
    """Write the tensors of a file, as they are, with another header."""
    write_tensors(_open(path, tensors=True)[0], info, target, half=False)


def write_tensors(
    state: Mapping[str, torch.Tensor], info: WeightsInfo, path: Path, *, half: bool = True
) -> None:
    """Write tensors with a header that says what they are."""
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
    # The first eight bytes of a safetensors file are the length of its header, and may begin with anything.
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[8:] != b"{"):
        raise UserError(
            f"{path} is a pickle, which may run any code when opened, so it is not opened; "
            "use a .safetensors file written by napari-deepretina"
        )
    try:
        with safe_open(path, framework="pt" if tensors else "np") as file:
            header = (file.metadata() or {}).get(_KEY)
            if header is None:
                raise UserError(
                    f"{path} was not written by napari-deepretina: its header does not describe a network"
                )
            info = WeightsInfo.model_validate(parse_json(header))
            names = file.keys() if tensors else ()
            values = {k: file.get_tensor(k) for k in names}
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from None
    except ValidationError as error:
        raise UserError(
            f"{path} describes a network that this version does not know: {first_fault(error)}"
        ) from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} has a header that is no JSON: {str(error)[:120]}") from None
    return values, info
