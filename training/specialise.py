"""Teach a network another kind of image by a small difference, in products of thin matrices.

``python training/specialise.py BASE OUT.safetensors --begin NETWORK --numbers 2500000 --steps 3400
--recipe RECIPE.toml --data SET.zip …``

Fine-tuning changes weights in few directions (Hu et al. 2022, LoRA), so a second network for another kind of
image need not be stored whole. NETWORK was fine-tuned from BASE and knows that kind of image; the largest
singular values of what it differs by, as many as fit into so many numbers, are where the factors begin. They
are trained as the recipe's first stage says. A checkpoint lies beside OUT: called again, training goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sets import attribution_of
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader

from napari_deepretina.data import Dataset
from napari_deepretina.data.crops import Batch, CropStream, Decoded, collate
from napari_deepretina.data.samplers import round_of
from napari_deepretina.errors import UserError
from napari_deepretina.files import written_whole
from napari_deepretina.model.difference import DOWN, UP, factored, save_difference
from napari_deepretina.model.header import Specialist
from napari_deepretina.model.network import MaskRCNN, Network
from napari_deepretina.model.weights import LoadedModel, load_model
from napari_deepretina.training.recipe import Recipe, Stage, load_recipe
from napari_deepretina.training.run import split_data
from napari_deepretina.training.trainable import set_modes

FACTORS = 3.0
"""Learning rate of factors, in units of the recipe's: their product moves more slowly than they do."""
KEEP_EVERY, TELL_EVERY = 250, 50


class Low(nn.Module):
    """A weight with a product of two thin matrices added."""

    def __init__(self, up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the network uses it."""
        with torch.autocast(weight.device.type, enabled=False):
            changed: Tensor = weight + (self.up @ self.down).view(weight.shape)
        return changed.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else changed


def differences(base: Network, other: Network) -> dict[str, Tensor]:
    """Of all that is trained and of batch-norm's statistics."""
    mine, theirs = base.state_dict(), other.state_dict()
    return {k: theirs[k] - v for k, v in mine.items() if v.is_floating_point()}


def prepared(network: Network, begin: dict[str, Tensor]) -> dict[str, nn.Parameter]:
    """Add the differences to the network, so that they can be trained; what is trained, by name."""
    network.requires_grad_(False)
    trained: dict[str, nn.Parameter] = {}
    for name, value in begin.items():
        if name.endswith(DOWN):
            continue
        stem = name.removesuffix(UP)
        module_name, _, leaf = stem.rpartition(".")
        module = network.get_submodule(module_name)
        if name.endswith(UP):
            low = Low(value, begin[stem + DOWN])
            parametrize.register_parametrization(module, leaf, low)
            trained[name], trained[stem + DOWN] = low.up, low.down
            continue
        with torch.no_grad():
            getattr(module, leaf).add_(value)
        if leaf in dict(module.named_parameters(recurse=False)):
            trained[name] = getattr(module, leaf).requires_grad_(True)
    return trained


@dataclass
class State:
    """What changes while training; a checkpoint holds all but the network."""

    network: MaskRCNN
    trained: dict[str, nn.Parameter]
    average: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def of(cls, network: MaskRCNN, trained: dict[str, nn.Parameter]) -> State:
        """At the beginning."""
        factors = [p for n, p in trained.items() if n.endswith((UP, DOWN))]
        rest = [p for n, p in trained.items() if not n.endswith((UP, DOWN))]
        groups = [{"params": factors, "rate": FACTORS}, {"params": rest, "rate": 1.0}]
        average = {name: p.detach().clone() for name, p in trained.items()}
        return cls(network, trained, average, torch.optim.AdamW(groups, weight_decay=0.0))

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        content: dict[str, Any] = {
            "step": self.step, "average": self.average, "optimizer": self.optimizer.state_dict(),
            "trained": {name: p.detach() for name, p in self.trained.items()},
        }  # fmt: skip
        with written_whole(path) as part:
            torch.save(content, part)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint."""
        saved = torch.load(path, weights_only=True)
        self.step, self.average = saved["step"], saved["average"]
        self.optimizer.load_state_dict(saved["optimizer"])
        with torch.no_grad():
            for name, p in self.trained.items():
                p.copy_(saved["trained"][name])


def batches(data: Dataset, base: LoadedModel, recipe: Recipe, begun: int) -> Iterator[Batch]:
    """Those of the recipe's first stage from a step on."""
    stage = recipe.stages[0]
    images = Decoded(data, base.info.architecture, diameter=base.info.diameter, cache_gb=recipe.cache_gb)
    size = stage.batch_size
    stream = CropStream(
        images, size=stage.crop, augmentation=stage.augmentation, seed=recipe.seed,
        length=stage.steps * size, positions=round_of(data, stage.sampler),
    )  # fmt: skip
    numbers = [list(range(k * size, k * size + size)) for k in range(begun, stage.steps)]
    loader = DataLoader(stream, batch_sampler=numbers, collate_fn=collate, num_workers=1, prefetch_factor=4)
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def learn(state: State, stage: Stage, batch: Batch) -> dict[str, float]:
    """One step; its losses."""
    torch.manual_seed(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = stage.learning_rate_at(state.step) * group["rate"]
    set_modes(state.network, stage)
    state.optimizer.zero_grad(set_to_none=True)
    with parametrize.cached(), torch.autocast("cpu", dtype=torch.bfloat16):
        losses = state.network(batch.images, batch.targets)
        loss = sum(losses.values(), start=torch.zeros(()))
        loss.backward()
    torch.nn.utils.clip_grad_norm_(list(state.trained.values()), stage.clip_norm)
    state.optimizer.step()
    state.step += 1
    keep = min(stage.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for name, p in state.trained.items():
            state.average[name].lerp_(p, 1 - keep)
    return {name: value.item() for name, value in {**losses, "loss": loss}.items()}


def main() -> None:
    """Train, and write OUT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base")
    parser.add_argument("out", type=Path)
    parser.add_argument("--begin", required=True, metavar="NETWORK")
    parser.add_argument("--numbers", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="other values in the recipe"
    )
    parser.add_argument("--data", required=True, nargs="+", metavar="SET.zip[@TIMES]")
    parser.add_argument("--incomplete", nargs="+", default=[], help="sets with unlabelled nuclei")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, [f"main.steps={arguments.steps}", *arguments.set])
    base = load_model(arguments.base, precision="float32")
    original = {k: v.clone() for k, v in base.network.state_dict().items()}
    apart = differences(base.network, load_model(arguments.begin, precision="float32").network)
    stage, network = recipe.stages[0], base.network
    assert isinstance(network, MaskRCNN)
    state = State.of(network, prepared(network, factored(apart, arguments.numbers)))
    network.set_sampling(stage.regions_per_image, stage.positive_fraction, stage.masks_per_image)
    kept = arguments.out.with_suffix(".ckpt")
    if kept.is_file():
        state.restore(kept)
    data, _ = split_data(arguments.data, incomplete=arguments.incomplete)
    print(f"{len(data)} images, {sum(p.numel() for p in state.trained.values())} numbers, "
          f"from step {state.step}", flush=True)  # fmt: skip
    told: list[dict[str, float]] = []
    begun = time.perf_counter()
    for batch in batches(data, base, recipe, state.step):
        told.append(learn(state, stage, batch))
        if state.step % TELL_EVERY == 0:
            means = {name: round(float(np.mean([t[name] for t in told])), 4) for name in told[0]}
            print(state.step, means, f"{(time.perf_counter() - begun) / len(told):.2f} s a step", flush=True)
            told, begun = [], time.perf_counter()
        if state.step % KEEP_EVERY == 0:
            state.save(kept)
    state.save(kept)
    stored = {n: v if n.endswith((UP, DOWN)) else v - original[n] for n, v in state.average.items()}
    names = [d.partition("@")[0] for d in arguments.data]
    info = base.info.model_copy(
        update={
            "steps": state.step,
            "recipe": recipe.name,
            "rescoring": None,
            "score": {},
            "data": ", ".join(Path(name).stem for name in names),
            "attribution": attribution_of(names),
            "specialist": Specialist(base=base.info.name, sha256=base.sha256),
        }
    )
    save_difference({n: v for n, v in stored.items() if v.any()}, info, arguments.out)
    print(arguments.out, f"{arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
