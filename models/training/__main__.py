"""``python -m models.training --config FILE``: build the feature cache, train, save.

``python -m models.training export`` writes a trained captioner as OpenVINO files.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import yaml

from models.training import export
from models.training.features import FeatureCache, build_cache, open_cache
from models.training.loop import Trainer, TrainingConfig
from models.training.sources import read_samples


def main() -> None:
    """Parse the command line and train."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m models.training")
    parser.add_argument("--config", type=Path, required=True, help="a file of configs/train")
    default_data = os.environ.get("WATCHWORD_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default_data), help="data root")
    parser.add_argument("--cache", type=Path, default=Path(".cache/features"))
    parser.add_argument("--output", type=Path, default=Path("runs/default"))
    arguments = parser.parse_args()
    config = TrainingConfig(**yaml.safe_load(arguments.config.read_text()))
    cache = _cache(config, arguments.data, arguments.cache / config.cache.name)
    samples = read_samples(arguments.data)
    Trainer(config, samples, cache, arguments.output).run()


def _cache(config: TrainingConfig, data: Path, folder: Path) -> FeatureCache:
    try:
        return open_cache(folder)
    except FileNotFoundError:
        return build_cache(data, folder, config.cache)


if __name__ == "__main__":
    if sys.argv[1:2] == ["export"]:
        export.main(sys.argv[2:])
    else:
        main()
