"""From what a person writes on the command line to a training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError

from napari_deepretina.data import Dataset, Subset, open_dataset
from napari_deepretina.data.joined import JoinedDataset
from napari_deepretina.data.split import random_split, read_split
from napari_deepretina.errors import UserError
from napari_deepretina.model.network import MaskRCNN, build
from napari_deepretina.model.weights import DEFAULT, WeightsInfo, load_model
from napari_deepretina.training.fit import fit
from napari_deepretina.training.recipe import Recipe, load_recipe


def run_training(
    recipe_name: str,
    data: Sequence[str],
    out: Path,
    *,
    weights: str = "random",
    split: str | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    overrides: Sequence[str] = (),
) -> Path:
    """Check everything, then train; see `napari_deepretina.training.fit.fit`.

    Raises
    ------
    UserError
        If recipe, data, weights or folder cannot work, before anything is written.
    """
    recipe = load_recipe(recipe_name, overrides)
    last = out / "checkpoints" / "last.ckpt"
    if resume and not last.exists():
        raise UserError(f"nothing to resume: {last} does not exist")
    if not resume and last.exists():
        raise UserError(f"{out} holds a run already; pass --resume to go on with it, or another --out")
    train, val = split_data(data, split)
    start = starting_point(weights, recipe)
    return fit(
        recipe,
        train,
        val,
        out,
        start=start,
        resume=resume,
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=devices,
        data_name=", ".join(f"{Path(d).name}" for d in data) + f" ({len(train)} images)",
    )


def split_data(data: Sequence[str], split: str | None = None) -> tuple[Dataset, Dataset]:
    """Training and validation images of one or several data sets.

    Each set is split by the file given, else by the split in or beside it, else at random
    (one tenth held out, the same ones each time).
    """
    train: list[Dataset] = []
    val: list[Dataset] = []
    given = read_split(split) if split else None
    for path in data:
        dataset, found = open_dataset(path)
        chosen = given or found or random_split(dataset.names)
        train.append(Subset(dataset, chosen.train))
        val.append(Subset(dataset, chosen.val))
    return JoinedDataset(train), JoinedDataset(val)


def starting_point(weights: str, recipe: Recipe) -> tuple[MaskRCNN, WeightsInfo] | None:
    """``random``, ``bundled``, ``imagenet`` (backbone only), a known name or a weights file."""
    if weights == "random":
        return None
    if weights == "imagenet":
        network = build(recipe.architecture, seed=recipe.seed)
        load_imagenet(network)
        return network, WeightsInfo(name="imagenet", architecture=recipe.architecture)
    model = load_model(DEFAULT if weights == "bundled" else weights)
    return model.network, model.info


def load_imagenet(network: MaskRCNN) -> None:
    """Fill the backbone with torchvision's ImageNet weights, fetched once with a checked hash."""
    from torchvision.models import get_model_weights

    name = network.architecture.backbone
    try:
        state = get_model_weights(name).DEFAULT.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError) as error:
        raise UserError(
            f"ImageNet weights for {name} could not be fetched ({error}); connect to the internet "
            "once, or start from 'bundled' or 'random'"
        ) from None
    body = {k: v for k, v in state.items() if not k.startswith("fc.")}
    network.backbone.body.load_state_dict(body)
