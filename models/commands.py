"""``watchword models``: what there is, the cards of checkpoints, and an audit of words.

Only the command line imports this. It loads no PyTorch until a command lists what PyTorch knows.
"""

from __future__ import annotations

import fnmatch
import json as json_codec
import sys
from collections import Counter
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from models.audit import captions_in
from models.checkpoint_files import CONFIG, TENSORS, checkpoint_identity
from models.wording import count_forbidden

__all__ = ["app"]

_WEIGHTS = Path(__file__).parent / "weights"
_SHORT = 8
"""So many encoders are named where nobody asked for certain ones."""
_AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

app = typer.Typer(
    help="""Encoders, decoders, checkpoints and their cards; an audit of words.

Examples: watchword models list

watchword models show default
""",
    no_args_is_help=True,
)


class Kind(str, Enum):
    """What can be listed."""

    CHECKPOINT = "checkpoint"
    FUSION = "fusion"
    CELL = "cell"
    ENCODER = "encoder"


class ModelsError(ValueError):
    """What was asked for is not there or cannot be read; one line, with what to do."""


@app.command("list")
def list_models(
    kind: Annotated[Kind | None, typer.Option(help="This kind only.")] = None,
    filter: Annotated[str | None, typer.Option(help="Names as in a glob: '*resnet*'.")] = None,
    json: _AsJson = False,
) -> None:
    """List the shipped checkpoints, and what a training can be built from.

    Example: watchword models list --kind encoder --filter '*efficientnet*'
    """
    pattern = filter or "*"
    for each in Kind if kind is None else (kind,):
        found = [item for item in _listed(each) if fnmatch.fnmatchcase(item["name"], pattern)]
        if json:
            for item in found:
                _print_json({"kind": each.value, **item})
        else:
            shorten = kind is None and filter is None and each is Kind.ENCODER
            _print_names(each, found, _SHORT if shorten else len(found))


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A shipped name, or a checkpoint's folder.")],
    json: _AsJson = False,
) -> None:
    """Print a checkpoint's card (its training, its scores, its limits) and its configuration.

    Example: watchword models show default
    """
    folder = _folder(name)
    about = _about(folder)
    if json:
        _print_json(about)
        return
    card = folder / "card.md"
    if card.is_file():
        print(card.read_text(encoding="utf-8").rstrip() + "\n")
    for key, value in _flat(about):
        print(f"{key}: {value}")


@app.command("audit")
def audit(
    data: Annotated[Path, typer.Argument(help="A data set's folder, or a file of JSON lines.")],
    json: _AsJson = False,
) -> None:
    """Count words that a camera cannot know of people: descent, belief, judgements of the body.

    Reads the captions of a data set before a training, or those that a run wrote.

    Example: watchword models audit output/lobby.jsonl
    """
    found: Counter[str] = Counter()
    captions = with_words = 0
    for caption in captions_in(data):
        words = count_forbidden([caption])
        found.update(words)
        captions += 1
        with_words += bool(words)
    ranked = dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
    if json:
        _print_json({"captions": captions, "with_words": with_words, "words": ranked})
        return
    for word, count in ranked.items():
        print(f"{count:8}  {word}")
    print(f"{with_words} of {captions} captions hold such words")


def _listed(kind: Kind) -> list[dict[str, Any]]:
    if kind is Kind.CHECKPOINT:
        return [_about(config.parent) for config in sorted(_WEIGHTS.glob("*/config.json"))]
    if kind is Kind.ENCODER:
        from models.encoders import encoder_names  # noqa: PLC0415 - loads PyTorch

        return [{"name": name} for name in encoder_names()]
    return [{"name": name, "says": _first_line(made)} for name, made in _registry(kind).items()]


def _registry(kind: Kind) -> Mapping[str, type]:
    from models.cells import CELLS  # noqa: PLC0415 - these load PyTorch
    from models.fusion import FUSIONS  # noqa: PLC0415

    return FUSIONS if kind is Kind.FUSION else CELLS


def _print_names(kind: Kind, found: list[dict[str, Any]], most: int) -> None:
    print(f"{kind.value}s: {len(found)}")
    for item in found[:most]:
        says = item.get("says", "")
        if kind is Kind.CHECKPOINT:
            size = f"{item['bytes'] / 1e6:.1f} MB"
            says = f"{item['encoder']}, {item['input_size']} pixels, {size}"
        print(f"  {item['name']:24} {says}".rstrip())
    if len(found) > most:
        print(f"  ... all with --kind {kind.value}, some with --filter '*resnet*'")


def _folder(name: str) -> Path:
    for folder in (_WEIGHTS / name, Path(name)):
        if (folder / CONFIG).is_file():
            return folder
    known = ", ".join(sorted(path.parent.name for path in _WEIGHTS.glob("*/config.json")))
    raise ModelsError(f"no model {name!r}: give a folder with a config.json, or one of {known}")


def _about(folder: Path) -> dict[str, Any]:
    try:
        config = json_codec.loads((folder / CONFIG).read_text(encoding="utf-8"))
        known = {key: config[key] for key in ("encoder", "input_size", "decoder", "sha256")}
        size = (folder / TENSORS).stat().st_size
        identity = checkpoint_identity(folder, folder.name)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelsError(f"{folder / CONFIG} is not a checkpoint's: {error}") from None
    except OSError as error:
        raise ModelsError(f"{error.filename} cannot be read: {error.strerror}") from None
    about = {"name": folder.name, "id": identity, "folder": str(folder)}
    return {**about, **known, "bytes": size}


def _flat(about: dict[str, Any]) -> list[tuple[str, Any]]:
    """Name and value of every setting; those of the decoder as ``decoder.NAME``."""
    flat: list[tuple[str, Any]] = []
    for key, value in about.items():
        inner = value.items() if isinstance(value, dict) else ()
        flat += [(f"{key}.{name}", each) for name, each in inner] or [(key, value)]
    return flat


def _first_line(thing: type) -> str:
    return (thing.__doc__ or "").partition("\n")[0]


def _print_json(record: dict[str, Any]) -> None:
    sys.stdout.write(json_codec.dumps(record) + "\n")
