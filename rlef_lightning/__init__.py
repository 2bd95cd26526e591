"""Reinforcement learning from execution feedback (arXiv 2410.02089) on PyTorch Lightning and vLLM.

Importing the package is cheap: torch, lightning and vllm load with the rooms that need them.
"""

__version__ = "0.1.0"
