"""What speaks: the Engine protocol and the embedded vLLM engine. Importing loads neither torch nor vllm."""

from rlef_lightning.generation.engine import Engine, RequestFailed, SharedEngine, SleepingEngine
from rlef_lightning.generation.vllm import VLLMEngine

__all__ = ["Engine", "RequestFailed", "SharedEngine", "SleepingEngine", "VLLMEngine"]
