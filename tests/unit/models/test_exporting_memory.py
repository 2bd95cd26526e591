"""What `rlef export` takes of its host's memory: the model once, and about one tensor."""

from __future__ import annotations

import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from transformers import AutoModelForCausalLM

from rlef_lightning.models import exporting
from rlef_lightning.models.fingerprint import folder_fingerprint
from rlef_lightning.models.lora import Lora, add_adapters, described, is_adapter
from rlef_lightning.models.networks import load_policy
from rlef_lightning.models.sharding import decoder_layers
from tests.unit.models.test_building_memory import MIB, SLACK_BYTES, anonymous_bytes, model_folder

LORA = Lora(rank=2)


def checkpoint(folder: str, path: Path, kind: str) -> Path:
    """As a run of this model leaves it."""
    model = load_policy(folder)
    content: dict[str, Any] = {}
    if kind == "adapters":
        add_adapters(model, decoder_layers(model), LORA)
        content["lora"] = described(LORA, "float32", folder_fingerprint(folder, "model.model_folder"))
    state = {
        f"policy.model.{n}": w for n, w in model.state_dict().items() if kind != "adapters" or is_adapter(n)
    }
    if kind == "shards":
        dcp.save({"state_dict": state}, checkpoint_id=str(path), no_dist=True)
    else:
        torch.save({"state_dict": state, **content}, path)
    return path


def exported(small: tuple[str, str], large: tuple[str, str], target: str, answers: Any) -> None:
    """In a process of its own: the most that an export of the large model took, in bytes."""
    torch.set_num_threads(1)
    exporting.load_tokenizer = lambda folder: Silent()  # type: ignore[assignment,return-value]
    exporting.export(small[1], small[0], f"{target}/small", torch.float32)  # imports, and what stays of them
    before, taken, done = anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            taken.append(anonymous_bytes() - before)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    exporting.export(large[1], large[0], f"{target}/large", torch.float32)
    done.set()
    watcher.join()
    answers.put(max(taken))


class Silent:
    """In the place of a tokenizer: it writes nothing."""

    def save_pretrained(self, save_directory: str) -> None:
        """Nothing."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "vocabulary", "layers"), [("file", 32_000, 4), ("shards", 32_000, 4), ("adapters", 1_000, 9)]
)
def test_the_peak_is_the_model_and_one_tensor(
    tmp_path: Path, kind: str, vocabulary: int, layers: int
) -> None:
    small = model_folder(tmp_path / "small", 64, layers=1)
    folders = small, model_folder(tmp_path / "large", vocabulary, layers)
    pairs = [(folder, str(checkpoint(folder, Path(f"{folder}.ckpt"), kind))) for folder in folders]
    start = multiprocessing.get_context("spawn")
    answers = start.Queue()
    process = start.Process(target=exported, args=(*pairs, str(tmp_path), answers))
    process.start()
    taken = answers.get(timeout=120)
    process.join(60)
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "large", dtype=torch.float32)
    sizes = [weight.nbytes for weight in written.parameters()]
    # 173 MiB, the largest tensor 62.5; with adapters on layers of 12 MiB 113 and 2.7. A peak far below the
    # model would be no measurement.
    assert sum(sizes) > 110 * MIB
    assert 0.8 * sum(sizes) < taken < sum(sizes) + max(sizes) + SLACK_BYTES < 1.5 * sum(sizes)
