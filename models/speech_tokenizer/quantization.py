"""Residual vector quantisation with Euclidean codebooks, under the published checkpoints' key names.

Source: SpeechTokenizer (arXiv 2308.16692); residual VQ as in SoundStream (arXiv 2107.03312).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EuclideanCodebook(nn.Module):
    """`size` code vectors of `dim` channels. The counts beside them are those of their training by moving averages."""

    inited: Tensor
    cluster_size: Tensor
    embed: Tensor
    embed_avg: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        vectors = torch.randn(size, dim)
        self.register_buffer("inited", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("embed", vectors)
        self.register_buffer("embed_avg", vectors.clone())

    def nearest(self, x: Tensor) -> Tensor:
        """Index of the nearest code vector, the first of equals: (..., dim) -> int64 (...)."""
        distance = x.square().sum(-1, keepdim=True) - 2 * x @ self.embed.t() + self.embed.square().sum(-1)
        return distance.argmin(-1)

    def vectors(self, codes: Tensor) -> Tensor:
        """Code vectors of int64 codes (...): (..., dim)."""
        return F.embedding(codes, self.embed)


class ResidualVectorQuantizer(nn.Module):
    """`levels` codebooks, each quantising what those before it left over."""

    def __init__(self, *, levels: int, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        layers = (nn.ModuleDict({"_codebook": EuclideanCodebook(size, dim)}) for _ in range(levels))
        self.vq = nn.ModuleDict({"layers": nn.ModuleList(layers)})

    def __len__(self) -> int:
        return sum(1 for _ in self.codebooks())

    def codebooks(self) -> Iterator[EuclideanCodebook]:
        """The codebooks, semantic level first."""
        return (module for module in self.vq.modules() if isinstance(module, EuclideanCodebook))

    def encode(self, x: Tensor, n_q: int, st: int = 0) -> Tensor:
        """Codes of levels st .. n_q - 1 for x (B, T, dim): int64 (n_q - st, B, T).

        Level `st` quantises x itself: levels before it are skipped, not subtracted (as published).
        """
        codes = []
        for codebook in list(self.codebooks())[st:n_q]:
            codes.append(codebook.nearest(x))
            x = x - codebook.vectors(codes[-1])
        return torch.stack(codes)

    def decode(self, codes: Tensor, st: int = 0) -> Tensor:
        """Sum of the code vectors of codes (q, B, T), whose first row belongs to level `st`: (B, T, dim)."""
        codebooks = list(self.codebooks())[st:]
        out = codebooks[0].vectors(codes[0])
        for row, codebook in zip(codes[1:], codebooks[1:], strict=False):
            out = out + codebook.vectors(row)
        return out
