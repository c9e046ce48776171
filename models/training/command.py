"""``python -m models.training --config FILE``: build the feature cache, train, save.

``python -m models.training export`` writes a trained captioner as OpenVINO files, ``readout`` fits
its hazard read-out anew, ``closer`` its closer look for small fires, ``steady`` teaches its encoder
to see in bad pictures what it sees in good ones, ``lexicon`` writes what is said of its concepts,
and ``pseudo`` captions clips that nobody captioned.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from models.captioner import Captioner
from models.checkpoint import CheckpointError
from models.encoders import Encoder, EncoderError, build_encoder
from models.training import closer, export, lexicon, pseudo, refit, steady
from models.training.config import TrainingConfig, TrainingConfigError, read_config
from models.training.data import MapSource
from models.training.features import FeatureCache, build_cache, open_cache
from models.training.live_views import LiveMaps
from models.training.loop import Trainer
from models.training.parallel import Processes, join_processes
from models.training.readout import leave_out
from models.training.sources import (
    DataError,
    Sample,
    data_root,
    pictures_digest,
    read_samples,
    refuse_missing,
)
from models.training.start import load_start

log = logging.getLogger(__name__)

_COMMANDS = {
    "closer": closer.main,
    "export": export.main,
    "lexicon": lexicon.main,
    "pseudo": pseudo.main,
    "readout": refit.main,
    "steady": steady.main,
}


__all__ = ["main"]


def main() -> None:
    """Do what the command line says: train, or one of the other commands."""
    if sys.argv[1:2] and sys.argv[1] in _COMMANDS:
        _COMMANDS[sys.argv[1]](sys.argv[2:])
    else:
        _main()


def _main() -> None:
    """Parse the command line and train."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        prog="python -m models.training",
        epilog=f"Also: python -m models.training {{{','.join(_COMMANDS)}}} --help",
    )
    parser.add_argument("--config", type=Path, required=True, help="a file of configs/train")
    parser.add_argument(
        "--data", type=Path, default=data_root(), help="folder of data sets (%(default)s)"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(".cache/features"),
        help="folder for what the frozen stages say of the pictures (%(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/default"),
        help="folder of the checkpoints and the state to go on from (%(default)s)",
    )
    parser.add_argument(
        "--fold",
        type=_fold,
        metavar="K/N",
        help="leave out every N-th part of the scenes with labelled hazards, the K-th from 0",
    )
    parser.add_argument("--wandb", metavar="PROJECT", help="log to Weights & Biases too")
    arguments = parser.parse_args()
    try:
        _train(arguments)
    except (DataError, TrainingConfigError, CheckpointError, EncoderError) as error:
        parser.error(str(error))


def _train(arguments: argparse.Namespace) -> None:
    config = read_config(arguments.config)
    start = load_start(config)
    encoder = build_encoder(config.encoder) if start is None else start.encoder
    encoder.channels_after(config.frozen_stages)  # refused now, and not after hours of caching
    processes = join_processes()
    if arguments.wandb and processes.leads:
        _log_to_wandb(arguments.wandb, config, arguments.output)
    samples = read_samples(arguments.data, config.data_sets)
    if arguments.fold:
        samples = leave_out(samples, *arguments.fold)
    wanted = _seen(samples, config)
    source = _maps(config, arguments.data, arguments.cache, wanted, processes, start)
    Trainer(config, samples, source, arguments.output, processes, start).run()
    processes.leave()


def _maps(
    config: TrainingConfig,
    data: Path,
    caches: Path,
    wanted: set[str],
    processes: Processes,
    start: Captioner | None = None,
) -> MapSource:
    """Maps of what is wanted, and of more where a cache has it; by the lower stages of a start."""
    encoder = None if start is None else copy.deepcopy(start.encoder)
    if config.live_views:
        return LiveMaps.read(data, wanted, config, encoder)
    name = config.cache.name if start is None else f"{config.cache.name}-{start.identity}"
    cache = _cache(config, data, caches / name, processes, encoder)
    refuse_missing(data, wanted, cache.index)
    return cache


def _seen(samples: Sequence[Sample], config: TrainingConfig) -> set[str]:
    """Keys of what a training looks at: it learns from some splits, and is judged on ``val``."""
    return {s.key for s in samples if s.split in (*config.learns_from, "val")}


def _fold(text: str) -> tuple[int, int]:
    fold, of, folds = text.partition("/")
    if not (of and fold.isdigit() and folds.isdigit() and int(fold) < int(folds)):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 0/5")
    return int(fold), int(folds)


def _log_to_wandb(project: str, config: TrainingConfig, folder: Path) -> None:
    """Send what TensorBoard gets to Weights & Biases too; WANDB_MODE=offline keeps it here."""
    try:
        import wandb  # noqa: PLC0415  (only when asked for)
    except ImportError:
        sys.exit("--wandb needs the package: pip install 'watchword[wandb]'")
    folder.mkdir(parents=True, exist_ok=True)
    wandb.init(project=project, config=asdict(config), dir=folder, sync_tensorboard=True)


def _cache(
    config: TrainingConfig,
    data: Path,
    folder: Path,
    processes: Processes,
    encoder: Encoder | None,
) -> FeatureCache:
    """Open the cache; where there is none the leader builds it and the others wait.

    One of other pictures, or of the same before they were changed, is built anew.
    """
    with processes.leader_first():
        try:
            cache = open_cache(folder)
        except FileNotFoundError:
            return build_cache(data, folder, config.cache, encoder=encoder)
        if cache.pictures == pictures_digest(data, config.data_sets):
            return cache
        log.warning("%s is of other pictures, or they have changed: built anew", folder)
        return build_cache(data, folder, config.cache, encoder=encoder)
