"""One fingerprint for one model, whatever its files; another where it was trained or has another form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.fingerprint import ROWS, _parts, folder_fingerprint

Tensors = dict[str, torch.Tensor]
WEIGHTS: Tensors = {
    "a": torch.arange(60.0).reshape(20, 3),
    "b": torch.arange(5.0),
    "c": torch.tensor(2.0),
    "d": torch.arange(8.0).reshape(4, 2).bfloat16(),
}


def written(folder: Path, *files: Tensors) -> Path:
    folder.mkdir()
    if len(files) == 1:
        save_file(files[0], folder / "model.safetensors")
        return folder
    names = [f"part-{number}.safetensors" for number in range(len(files))]
    for name, tensors in zip(names, files, strict=True):
        save_file(tensors, folder / name)
    places = [f'"{t}": "{name}"' for name, tensors in zip(names, files, strict=True) for t in tensors]
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {' + ", ".join(places) + "}}")
    return folder


def of(folder: Path) -> str:
    return folder_fingerprint(folder, "model.model_folder")


def test_files_and_places_do_not_matter(tmp_path: Path) -> None:
    one = of(written(tmp_path / "one", WEIGHTS))
    parts = [{name: WEIGHTS[name] for name in names} for names in ("db", "ca")]
    assert len(one) == 32
    assert of(written(tmp_path / "two", *parts)) == one


@pytest.mark.parametrize(
    "other",
    [
        {"a": WEIGHTS["a"] * (1 + 1e-6)},
        {"a": WEIGHTS["a"].reshape(30, 2)},
        {"a": WEIGHTS["a"].half()},
        {"b": WEIGHTS["b"].index_fill(0, torch.tensor([3]), 0.0)},
        {"c": torch.tensor(2.5)},
        {"d": WEIGHTS["d"] + 1},
        {"e": torch.zeros(1)},
    ],
    ids=["trained", "shape", "format", "vector", "number", "half", "name"],
)
def test_every_difference_shows(tmp_path: Path, other: Tensors) -> None:
    assert of(written(tmp_path / "one", WEIGHTS)) != of(written(tmp_path / "other", {**WEIGHTS, **other}))


def test_of_a_large_matrix_a_few_rows_are_read() -> None:
    assert [part[0].start for part in _parts((1000, 3))] == [
        0,
        142,
        285,
        428,
        570,
        713,
        856,
        999,
    ]  # k 999 // 7
    assert len(_parts((1000, 3))) == ROWS
    assert _parts((ROWS, 3)) == _parts((1000,)) == _parts(()) == [()]


def test_a_folder_without_weights_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"`model\.model_folder`"):
        of(tmp_path)
