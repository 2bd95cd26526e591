"""safetensors of a Hugging Face folder -> a fingerprint that tells one model from another of the same shape.

Of each tensor a few rows are read, so it costs little for any model, and training, which moves all rows,
shows. The files' names, and how tensors are spread over them, do not enter. Guards against mistakes, not
against forgers.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from rlef_lightning.models.reading import Folder

ROWS = 8
"""Of each matrix: the first, the last, and others at equal distances. Vectors are read whole."""


def folder_fingerprint(path: str | Path, setting: str) -> str:
    """32 hexadecimal digits, from names, shapes, number formats and some of the numbers.

    Args:
        path: Hugging Face folder of safetensors files.
        setting: Name of the option that `path` comes from, for errors.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with Folder(path, setting) as folder:
        for name in sorted(folder.names):
            shape = folder.shape(name)
            for part in _parts(shape):
                rows = folder.rows(name, part)
                digest.update(f"{name} {rows.dtype} {shape} {part}\n".encode() + _bytes(rows))
    return digest.hexdigest()


def _parts(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    if len(shape) < 2 or shape[0] <= ROWS:
        return [()]
    rows = [number * (shape[0] - 1) // (ROWS - 1) for number in range(ROWS)]
    return [(slice(row, row + 1), *(slice(None) for _ in shape[1:])) for row in rows]


def _bytes(tensor: Tensor) -> bytes:
    found: bytes = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return found
