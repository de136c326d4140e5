"""Multi-layer perceptron and feed-forward block, with detrex's parameter names."""

from __future__ import annotations

from torch import Tensor, nn

from .cpu import kernels
from .dropout import Dropout, dropout


class MLP(nn.Module):
    """``num_layers`` linear layers with ReLU between them and none after the last. Keys: ``layers.{i}``.

    Shapes: (..., in_dim) -> (..., out_dim).
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(dims, dims[1:], strict=False))

    @kernels("MLP")
    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) -> (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class FFN(nn.Module):
    """Feed-forward block with its residual. Keys: ``layers.0.0`` and ``layers.1``.

    Shapes: (..., dim) -> (..., dim).
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.activation = activation or nn.ReLU(inplace=True)
        self.layers = nn.ModuleList([nn.ModuleList([nn.Linear(dim, hidden_dim)]), nn.Linear(hidden_dim, dim)])
        self.dropout = Dropout(dropout, inplace=True)

    @kernels("FFN")
    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim), with the residual."""
        return x + self.branch(x)

    def branch(self, x: Tensor) -> Tensor:
        """The same without the residual, for layers whose residual is not the input of the block."""
        # not in place: the activation may need its result for its gradient
        hidden = dropout(self.activation(self.layers[0][0](x)), self.dropout.p, self.training)
        return self.dropout(self.layers[1](hidden))
