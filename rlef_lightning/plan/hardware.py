"""What a plan assumes of the machines: makers' figures and stated assumptions, nothing measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One GPU in a node, with its share of the node.

    Example: HARDWARE["h100-80gb"].memory_bytes == 80e9
    """

    name: str
    memory_bytes: float
    """Of one GPU, as its maker counts."""
    flops_per_s: float
    """Dense bfloat16 products; float32 runs at `float32_flops_per_s`."""
    float32_flops_per_s: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    """To the other GPUs of the node, one direction."""
    network_bytes_per_s: float
    """To other nodes, for each GPU, one direction."""
    host_memory_bytes: float
    """Of the node, for each GPU."""
    gpus_per_node: int = 8


HARDWARE: Mapping[str, Hardware] = MappingProxyType(
    {
        one.name: one
        for one in (
            # nvidia.com: data sheets of A100, H100 and H200 SXM; DGX user guides for links and networks.
            Hardware(name="a100-80gb", memory_bytes=80e9, flops_per_s=312e12, float32_flops_per_s=19.5e12,
                     memory_bytes_per_s=2.0e12, link_bytes_per_s=300e9, network_bytes_per_s=25e9,
                     host_memory_bytes=256e9),
            Hardware(name="h100-80gb", memory_bytes=80e9, flops_per_s=989e12, float32_flops_per_s=67e12,
                     memory_bytes_per_s=3.35e12, link_bytes_per_s=450e9, network_bytes_per_s=50e9,
                     host_memory_bytes=256e9),
            Hardware(name="h200-141gb", memory_bytes=141e9, flops_per_s=989e12, float32_flops_per_s=67e12,
                     memory_bytes_per_s=4.8e12, link_bytes_per_s=450e9, network_bytes_per_s=50e9,
                     host_memory_bytes=256e9),
        )
    }
)  # fmt: skip

RESERVED_BYTES = 3 * GIB
"""Of each GPU: CUDA's context, NCCL's buffers, the allocator's fragments. An assumption."""
COMPUTE_SHARE, MEMORY_SHARE, NETWORK_SHARE = 0.4, 0.7, 0.7
"""How much of the peaks a run gets. Assumptions; well-tuned trainers reach them."""
