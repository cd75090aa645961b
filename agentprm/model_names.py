"""Names of models: on a hub, or folders."""

from __future__ import annotations

from pathlib import Path

from agentprm.errors import ConfigurationError

__all__ = ["model_name"]


def model_name(name: str | Path) -> str:
    """A name on the hub or an existing folder, as text; `~` is the home folder.

    Raises:
        ConfigurationError: If it can only be a folder and there is none. The hub's libraries would
            complain about the form of the name.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    text = str(name)
    if isinstance(name, Path) or path.is_absolute() or text.startswith(("./", "../")) or text.count("/") > 1:
        what = "is no folder" if path.exists() else "does not exist"
        raise ConfigurationError(
            f"{text!r} {what}. Pass a folder that holds a model, or a model's name on the Hugging Face hub."
        )
    return text
