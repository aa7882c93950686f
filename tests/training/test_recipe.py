import itertools

import pytest

from napari_deepretina.errors import UserError
from napari_deepretina.training.recipe import load_recipe, shipped_recipes, to_toml


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid_and_survive_writing(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.name == name
    (tmp_path / "r.toml").write_text(to_toml(recipe))
    assert load_recipe(str(tmp_path / "r.toml")) == recipe


def test_changes_reach_stage_all_stages_and_recipe():
    recipe = load_recipe(
        "from-scratch",
        [
            "main.learning_rate=0.5",
            "stages.crop=128",
            "seed=9",
            "architecture.backbone=resnet34",
            "main.augmentation.noise=0",
        ],
    )
    stage = recipe.stages[0]
    assert (stage.learning_rate, stage.crop, recipe.seed) == (0.5, 128, 9)
    assert recipe.architecture.backbone == "resnet34"
    assert stage.augmentation.noise == 0


def test_all_problems_are_told_together():
    with pytest.raises(UserError) as caught:
        load_recipe("from-scratch", ["main.learning_rate=-1", "main.crop=100", "main.speed=3", "nonsense"])
    for part in ("learning_rate", "crop", "speed", "write stage.key=value"):
        assert part in str(caught.value)


def test_unreadable_recipes_are_told(tmp_path):
    (tmp_path / "bad.toml").write_text("a = = 3")
    with pytest.raises(UserError, match="not valid TOML"):
        load_recipe(str(tmp_path / "bad.toml"))
    with pytest.raises(UserError, match="from-scratch"):
        load_recipe("no-such-recipe")


def test_learning_rate_rises_holds_and_falls():
    stage = load_recipe(
        "from-scratch", ["main.steps=100", "main.warmup=10", "main.hold=0.6", "main.learning_rate=1"]
    ).stages[0]
    rates = [stage.learning_rate_at(s) for s in range(100)]
    assert rates[0] < rates[5] < rates[9] < 1
    assert set(rates[10:61]) == {1.0}
    assert all(a > b for a, b in itertools.pairwise(rates[61:]))
    assert rates[-1] < 0.02


def test_steps_are_located_in_their_stage():
    recipe = load_recipe("from-scratch", ["main.steps=3"])
    assert [recipe.locate(s) for s in range(3)] == [(0, 0), (0, 1), (0, 2)]
    with pytest.raises(IndexError):
        recipe.locate(3)
