"""``models``: the checkpoints that are there, and their cards."""

from __future__ import annotations

import json as json_codec
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands.common import WrongUse
from pipeline.outputs.lines import to_json_line

__all__ = ["app"]

# Read as files: to import the models would load PyTorch for a list of names.
_WEIGHTS = Path(__file__).parents[2] / "models" / "weights"
_AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

app = typer.Typer(help="Checkpoints that are there, and their cards.", no_args_is_help=True)


@app.command("list")
def list_models(json: _AsJson = False) -> None:
    """List the shipped checkpoints.

    Example: watchword models list
    """
    for folder in sorted(path.parent for path in _WEIGHTS.glob("*/config.json")):
        about = _about(folder)
        if json:
            sys.stdout.write(to_json_line(about))
        else:
            size = f"{about['bytes'] / 1e6:.1f} MB"
            print(f"{about['name']}  {about['encoder']}  {about['input_size']} pixels  {size}")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A shipped name, or a checkpoint's folder.")],
    json: _AsJson = False,
) -> None:
    """Print a checkpoint's card: what it was trained on, what it scored, what it is not good for.

    Example: watchword models show default
    """
    folder = _folder(name)
    if json:
        sys.stdout.write(to_json_line(_about(folder)))
        return
    card = folder / "card.md"
    if not card.is_file():
        raise WrongUse(f"{folder} has no card.md; --json prints its configuration")
    print(card.read_text(encoding="utf-8").rstrip())


def _folder(name: str) -> Path:
    for folder in (_WEIGHTS / name, Path(name)):
        if (folder / "config.json").is_file():
            return folder
    known = ", ".join(sorted(path.parent.name for path in _WEIGHTS.glob("*/config.json")))
    raise WrongUse(f"no model {name!r}: give a folder with a config.json, or one of {known}")


def _about(folder: Path) -> dict[str, Any]:
    try:
        config = json_codec.loads((folder / "config.json").read_text(encoding="utf-8"))
        return {
            "name": folder.name,
            "folder": str(folder),
            "encoder": config["encoder"],
            "input_size": config["input_size"],
            "decoder": config["decoder"],
            "sha256": config["sha256"],
            "bytes": (folder / "model.safetensors").stat().st_size,
        }
    except (ValueError, KeyError, TypeError) as error:
        raise WrongUse(f"{folder / 'config.json'} is not a checkpoint's: {error}") from None
    except OSError as error:
        raise WrongUse(f"{error.filename} cannot be read: {error.strerror}") from None
