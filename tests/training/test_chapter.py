"""The chapter "Train on your own" runs as it stands."""

import re
import shlex
from pathlib import Path

import pytest
import tifffile

from napari_deepretina.cli import main
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.training import start

CHAPTER = Path(__file__).parents[2] / "docs" / "training.md"

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*:DeprecationWarning"),
]


@pytest.mark.slow
def test_all_that_can_be_pasted_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "DEFAULT", "nuclei-small")  # what "bundled" stands for: the quick one here
    for k in range(3):
        image, labels = synthetic_nuclei((96, 96), 6, diameter=20, seed=k)
        for kind, array in (("images", image), ("labels", labels)):
            Path("my_images", kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(Path("my_images", kind, f"{k}.tif"), array)
    names: dict[str, object] = {}
    blocks = re.findall(r"```(\w*)\n(.*?)```", CHAPTER.read_text("utf-8"), re.DOTALL)
    ran = []
    for language, text in blocks:
        ran.append(language)
        if language == "sh":
            for line in text.strip().splitlines():
                program, *words = shlex.split(line)
                assert program == "napari-deepretina"
                assert main(words) == 0, line
        elif language == "toml":
            Path("mine.toml").write_text(text)
        elif language == "python":
            exec(compile(text, str(CHAPTER), "exec"), names)
    assert (ran.count("sh"), ran.count("python"), ran.count("toml")) == (3, 4, 1)
    told = capsys.readouterr().out
    for part in ("learning_rate", "masks", "resuming with changes: main.steps 2 → 3"):
        assert part in told
    for run in ("mine", "discs", "both", "spots"):
        assert Path("runs", run, "weights.safetensors").exists()


def test_the_commands_that_need_files_of_others_are_understood(capsys):
    """Those of the last section: every option exists."""
    block = CHAPTER.read_text("utf-8").split("## As Deep Retina")[1].split("```")[1]
    for line in block.strip().splitlines():
        words = shlex.split(line)[1:]
        with pytest.raises(SystemExit) as end:
            main([*words, "--help"])
        assert end.value.code == 0
        known = capsys.readouterr().out
        assert all(word in known for word in words if word.startswith("--"))
