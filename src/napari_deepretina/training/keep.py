"""The weights that a run leaves: the best, the latest, and those at the ends of epochs."""

from __future__ import annotations

from pathlib import Path

from napari_deepretina.files import remove
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.network import Network
from napari_deepretina.model.runs import BEST, LATEST
from napari_deepretina.model.weights import save_weights
from napari_deepretina.training.recipe import Recipe
from napari_deepretina.training.validate import Verdict


class Keeper:
    """Writes weights into a run's folder.

    Parameters
    ----------
    info : their description, but for score and steps.
    judged : whether there is a validation set; without one, the latest weights stand for the best.
    """

    def __init__(self, out: Path, info: WeightsInfo, recipe: Recipe, *, judged: bool) -> None:
        self._out, self._info, self._recipe, self._judged = out, info, recipe, judged
        self._verdict: tuple[int, Verdict] | None = None

    def judged(self, network: Network, step: int, verdict: Verdict, *, best: bool) -> None:
        """Take note of a verdict, and keep the weights if they are the best so far."""
        self._verdict = step, verdict
        if best:
            self._write(network, step, self._out / BEST)

    def checkpoint(self, network: Network, step: int) -> None:
        """Keep the latest weights."""
        self._write(network, step, self._out / LATEST)
        if not self._judged:
            self._write(network, step, self._out / BEST)

    def epoch(self, network: Network, step: int) -> None:
        """Keep the weights of an epoch that ends here, if the recipe wants them; the oldest may go."""
        most, number = self._recipe.keep_epochs, self._recipe.epoch_ended(step)
        if not most or number is None:
            return
        self._write(network, step, self._out / "checkpoints" / f"epoch-{number:04d}.safetensors")
        if most != "all":
            for old in sorted((self._out / "checkpoints").glob("epoch-*.safetensors"))[:-most]:
                remove(old)

    def _write(self, network: Network, step: int, path: Path) -> None:
        told: dict[str, object] = {"steps": step, "score": {}}
        if self._verdict is not None and self._verdict[0] == step:
            verdict = self._verdict[1]
            told |= {
                "score": verdict.kept,
                "postprocess": self._info.postprocess | {"score": verdict.settings.score},
            }
        save_weights(network.state_dict(), self._info.model_copy(update=told), path)
