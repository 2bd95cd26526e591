"""What is planned in these tests: the 8B model on one node, and a small model of a few layers."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForCausalLM, LlamaConfig

from rlef_lightning.learning.objectives import PPO
from rlef_lightning.plan.asked import Asked
from rlef_lightning.plan.batches import Lengths
from rlef_lightning.plan.hardware import HARDWARE
from rlef_lightning.rollout import PlaySettings
from rlef_lightning.types import Sampling

ARCHITECTURES = Path(__file__).parents[1] / "configs" / "architectures"
H100 = HARDWARE["h100-80gb"]
LENGTHS = Lengths(prompt=1000.0, response=500.0, feedback=100.0, turns=2.0)
ASKED = Asked(
    model_folder=str(ARCHITECTURES / "llama-3.1-8b"),
    devices=8,
    nodes=1,
    strategy="ModelParallelStrategy",
    data_parallel_size=8,
    distributed_checkpoint=True,
    reload_every=1,
    max_epochs=3000,
    warmup_steps=50,
    pack_tokens=8192,
    objective=PPO(),
    reference_dtype="bfloat16",
    compute_dtype="bfloat16",
    recompute=True,
    offload_reference=False,
    problems_per_epoch=1024,
    play=PlaySettings(sampling=Sampling(max_response_tokens=2048)),
    minibatches=4,
    max_in_flight=64,
    max_episode_s=1200.0,
    rank_timeout_s=1800.0,
    engine={
        "dtype": "bfloat16",
        "max_context_tokens": 8192,
        "ranks_per_engine": 1,
        "max_sequences": 32,
        "gpu_memory_utilization": 0.5,
    },
    workers=64,
)


def small_folder(path: Path, layers: int, *, tied: bool = False) -> str:
    config = LlamaConfig(
        vocab_size=61, hidden_size=24, intermediate_size=37, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return str(path)
