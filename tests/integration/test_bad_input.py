"""Wrong input: one line that names the value, the limit and what to change; exit code not 0."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest

from .commands import LAST, MODEL, ROOT, SMALL, rlef

pytestmark = pytest.mark.slow

PROBLEM = {
    "id": "one",
    "statement": "Print 1.",
    "public_tests": [{"stdin": "", "expected_stdout": "1\n"}],
    "private_tests": [{"stdin": "", "expected_stdout": "1\n"}],
}


def json_lines(path: Path) -> list[str]:
    """Options that read all splits from one file."""
    splits = ("train", "validation", "test")
    source = "--data.problems=rlef_lightning.problems.JsonLines"
    return [source, *(f"--data.problems.init_args.{split}={path}" for split in splits)]


def refused(*options: str, cwd: Path, says: list[str]) -> None:
    """The command fails with one line of ours, without a traceback."""
    done = rlef("fit", "--trainer.max_epochs=1", *SMALL, *options, cwd=cwd)
    assert done.returncode not in (0, None)
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert lines, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.index(lines[-1]) :]
    assert all(word in message for word in says), message
    assert not (cwd / LAST).exists()


def test_missing_model_folder(tmp_path: Path) -> None:
    refused("--model.model_folder=/nowhere/model", cwd=tmp_path, says=["/nowhere/model", "model_folder"])


def test_a_reference_with_another_tokenizer_ends_both_ranks(tmp_path: Path) -> None:
    folder = tmp_path / "reference"
    shutil.copytree(MODEL, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(
        f"--config={ROOT / 'configs/trainer/two_cpu_ranks.yaml'}",
        f"--model.reference_folder={folder}",
        cwd=tmp_path,
        says=["tokenizers differ", "model.reference_folder", "512 tokens", "'a'"],
    )
    assert not (tmp_path / "runs/tiny/episodes").exists()


def test_malformed_problem_file(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(PROBLEM) + "\n" + json.dumps({**PROBLEM, "id": "two", "statement": 7}) + "\n")
    refused(*json_lines(path), cwd=tmp_path, says=["problems.jsonl", "2", "statement"])


def test_unreadable_problem_file(tmp_path: Path) -> None:
    path = tmp_path / "absent.jsonl"
    refused(*json_lines(path), cwd=tmp_path, says=["absent.jsonl"])


def test_prompt_longer_than_the_context(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({**PROBLEM, "statement": "Print one. " * 500}) + "\n")
    refused(*json_lines(path), cwd=tmp_path, says=["'one'", "tokens", "long_prompts", "max_context_tokens"])


def test_engine_that_cannot_start(tmp_path: Path) -> None:
    # The model has 8192 positions.
    refused(
        "--data.engine.init_args.max_context_tokens=100000",
        "--model.pack_tokens=100000",
        cwd=tmp_path,
        says=["vLLM", "100000", "data.engine.init_args"],
    )


def test_engine_that_disagrees_with_the_trainer(tmp_path: Path) -> None:
    # bfloat16 in the engine is off by about 1e-2, far above the tolerance of float32.
    refused(
        "--data.engine.init_args.dtype=bfloat16",
        cwd=tmp_path,
        says=["disagree", "1e-04", "parity_tolerance"],
    )


def test_more_minibatches_than_episodes(tmp_path: Path) -> None:
    refused("--data.minibatches_per_epoch=40", cwd=tmp_path, says=["40", "16", "minibatches_per_epoch"])


def test_options_that_lightning_refuses(tmp_path: Path) -> None:
    refused("--trainer.gradient_clip_val=1", cwd=tmp_path, says=["radient clipping", "manual"])


def test_checkpoint_that_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "torn.ckpt"
    path.write_bytes(b"PK\x03\x04 half a file")
    refused(f"--ckpt_path={path}", cwd=tmp_path, says=["torn.ckpt", "not a whole checkpoint"])


def test_no_last_checkpoint_to_evaluate(tmp_path: Path) -> None:
    done = rlef("validate", "--ckpt_path=last", *SMALL, cwd=tmp_path)
    assert done.returncode == 1
    assert "there is no last.ckpt" in done.stderr


def test_no_free_disk(tmp_path: Path) -> None:
    def limit() -> None:
        # Files end at 1 MB, as on a full disk; a checkpoint has about 18 MB.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    options = ("--trainer.max_epochs=1", "--data.store=null")  # the store would be the first to be full
    done = rlef("fit", *options, *SMALL, cwd=tmp_path, preexec_fn=limit)
    assert done.returncode == 1
    assert "rlef: error: cannot write the checkpoint" in done.stderr
    assert "Free some disk" in done.stderr
    assert not (tmp_path / LAST).exists()
    # A second run with room does not trip over what is left.
    again = rlef("fit", "--trainer.max_epochs=1", "--ckpt_path=last", *SMALL, cwd=tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (tmp_path / LAST).exists()
