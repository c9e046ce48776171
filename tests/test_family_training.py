"""The table of kinds trained by one recipe: its rows, and that a finished row stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import family_training
from benchmarks.family_training import GROUPS, Places, Row, markdown, run
from models.training.config import TrainingConfig

RECIPE = Path(__file__).parent.parent / "configs" / "train" / "family.yaml"
ROWS = [row for group in GROUPS.values() for row in group]
SCORES = {
    "cider": 0.5,
    "bleu_4": 0.2,
    "beam_size": 5,
    "draws": 5,
    "draw": "latent",
    "variety": {"mean_words": 9.5, "distinct": 0.4},
    "drawn": {"captions": 3.5, "distinct_bigrams": 0.6, "cider": 0.4, "best_cider": 0.7},
}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    folders = (tmp_path / name for name in ("data", "cache", "runs", "out"))
    return Places(RECIPE, *folders)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that were trained, in order; nothing else happens in a training here."""
    folders: list[Path] = []

    def train(config_file: Path, folder: Path, places: Places) -> None:
        before = "epoch 0: train 4.000, validation loss 3.900, CIDEr-D 0.050\n"
        last = "epoch 1: train 3.800, validation loss 3.500, CIDEr-D 0.250, latent 1.25 nats\n"
        (folder / "training.log").write_text(f"epoch 0:  50%|###\n{before}{before}{last}")
        (folder / "state.pt").touch()
        folders.append(folder)

    def evaluate(*of: Any) -> dict[str, Any]:
        return SCORES

    cpu_s = iter(range(0, 9000, 90))
    monkeypatch.setattr(family_training, "_children_s", lambda: next(cpu_s))
    monkeypatch.setattr(family_training, "_train", train)
    monkeypatch.setattr(family_training, "_evaluate", evaluate)
    return folders


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.slug)
def test_every_row_is_a_training_that_differs_in_what_it_says_alone(row: Row, places: Places):
    recipe = TrainingConfig(**yaml.safe_load(RECIPE.read_text()))
    told = TrainingConfig(**places.config(row))
    differs = {k for k, v in vars(told).items() if v != getattr(recipe, k)}
    assert differs == set(row.changes)


def test_no_two_rows_share_a_name_or_a_folder():
    assert len({row.name for row in ROWS}) == len({row.slug for row in ROWS}) == len(ROWS)


def test_a_finished_row_stands(places: Places, trained: list[Path]):
    first = run(ROWS[1], places, 5)
    assert [of["loss"] for of in first["epochs"]] == [3.9, 3.5]
    assert run(ROWS[1], places, 5)["scores"] == first["scores"]
    assert trained == [places.runs / ROWS[1].slug]
    run(ROWS[2], places, 5)
    assert len(trained) == 2


def test_a_training_that_was_broken_off_goes_on_and_tells_no_time(
    places: Places, trained: list[Path]
):
    folder = places.runs / ROWS[1].slug
    folder.mkdir(parents=True)
    (folder / "state.pt").touch()
    assert family_training.train(ROWS[1], places) is None
    assert trained == [folder]
    assert run(ROWS[1], places, 5)["training_cpu_s"] is None
    assert trained == [folder]
    assert run(ROWS[2], places, 5)["training_cpu_s"] == 90


def test_another_recipe_neither_stands_for_this_one_nor_goes_on_from_it(
    places: Places, trained: list[Path], tmp_path: Path
):
    run(ROWS[1], places, 5)
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**yaml.safe_load(RECIPE.read_text()), "epochs": 99}))
    with pytest.raises(SystemExit, match="another recipe"):
        run(ROWS[1], Places(other, places.data, places.cache, places.runs, places.output), 5)
    elsewhere = Places(other, places.data, places.cache, tmp_path / "more", places.output)
    assert run(ROWS[1], elsewhere, 5)["config"]["epochs"] == 99
    assert len(trained) == 2


def test_the_table_has_a_line_for_each_row_and_says_what_was_drawn(
    places: Places, trained: list[Path]
):
    table = markdown([run(row, places, 5) for row in ROWS[:2]])
    lines = [line for line in table.splitlines() if line.startswith(f"| {ROWS[1].name} |")]
    assert lines == [f"| {ROWS[1].name} | 0.500 | 0.200 | 9.5 | 0.40 | 3.500, 0.250 | 1.5 |"]
    assert f"{ROWS[0].name} (1.2 nats a caption in training): 3.5 different" in table
