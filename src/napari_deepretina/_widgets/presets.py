"""Post-processing settings that a person keeps: presets by name, and defaults for Segment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_deepretina.errors import UserError
from napari_deepretina.files import remove, write_text
from napari_deepretina.intake import read_json, typed
from napari_deepretina.postprocess import PostprocessSettings

_DEFAULT = "segment-default"


def folder() -> Path:
    """Where they are kept; it need not exist."""
    import platformdirs

    return Path(platformdirs.user_data_dir("napari-deepretina", appauthor=False)) / "presets"


def names() -> list[str]:
    """Names of the presets, sorted."""
    return sorted(p.stem for p in folder().glob("*.json") if p.stem != _DEFAULT)


def save(name: str, settings: PostprocessSettings) -> None:
    """Keep settings under a name, in place of those that had it; UserError if that cannot be."""
    if name == _DEFAULT or not name or any(c in name for c in '/\\:*?"<>|') or name.startswith("."):
        raise UserError(f"{name!r} cannot be the name of a preset: use letters, digits, blanks and dashes")
    write_text(folder() / f"{name}.json", settings.model_dump_json(indent=2))


def load(name: str) -> PostprocessSettings:
    """The settings of a preset; UserError if there is none, or it is damaged."""
    path = folder() / f"{name}.json"
    try:
        return typed(PostprocessSettings, read_json(path), "it")
    except UserError as error:
        raise UserError(f"preset {name!r} cannot be read: {error}") from None


def save_default(settings: PostprocessSettings) -> None:
    """Make settings the ones that Segment starts with."""
    write_text(folder() / f"{_DEFAULT}.json", settings.model_dump_json(indent=2))


def name_anew(old: str, new: str) -> None:
    """Give a preset another name; UserError if there is one of that name already, or it cannot be a name."""
    if new in names():
        raise UserError(f"there is a preset {new!r} already: choose another name")
    settings = load(old)
    save(new, settings)
    delete(old)


def delete(name: str) -> None:
    """Forget a preset."""
    remove(folder() / f"{name}.json")


def forget_default() -> None:
    """Let Segment start with its own settings again."""
    delete(_DEFAULT)


def load_default() -> dict[str, Any]:
    """Settings that Segment starts with; none if nobody chose any."""
    path = folder() / f"{_DEFAULT}.json"
    try:
        return typed(PostprocessSettings, read_json(path), str(path)).model_dump()
    except UserError:
        return {}
