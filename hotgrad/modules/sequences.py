"""Layers for sequences x (n, length, features): look-up tables, recurrent networks, attention. Batches come first."""

from __future__ import annotations

import math
from typing import Any

import torch

from hotgrad import functional
from hotgrad.checks import finite_number, one_of, whole_number
from hotgrad.core.variable import Parameter
from hotgrad.errors import SettingError, ShapeError
from hotgrad.modules.layers import Linear
from hotgrad.modules.module import Module
from hotgrad.ops.arithmetic import Where
from hotgrad.ops.reductions import Softmax
from hotgrad.ops.selection import embedding
from hotgrad.ops.shaping import Stack

__all__ = ["GRU", "LSTM", "RNN", "Embedding", "MultiheadAttention"]


class Embedding(Module):
    """A table of `num_embeddings` rows of `embedding_dim` numbers, looked up by integers x of any shape: (..., embedding_dim).

    weight (num_embeddings, embedding_dim), drawn from the normal distribution. The row `padding_idx` is 0 at first and gets no gradient.
    Raises RangeError for an integer out of range, on every engine.

    >>> hg.nn.Embedding(10, 3)(torch.tensor([[1, 2], [4, 5]])).shape
    torch.Size([2, 2, 3])
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        rows, columns = whole_number("Embedding: num_embeddings", num_embeddings), whole_number("Embedding: embedding_dim", embedding_dim)
        if padding_idx is not None and not -rows <= padding_idx < rows:
            raise SettingError(f"Embedding: padding_idx must be from {-rows} to {rows - 1}; got {padding_idx}")
        self.padding_idx = None if padding_idx is None else padding_idx % rows
        self.weight = Parameter(torch.zeros(rows, columns))
        self.initialize(None)

    @property
    def num_embeddings(self) -> int:
        """The number of rows."""
        return self.weight.shape[0]

    @property
    def embedding_dim(self) -> int:
        """The number of columns."""
        return self.weight.shape[1]

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw new rows from `generator`."""
        self.weight.data.normal_(generator=generator)
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0.0

    def forward(self, x: Any) -> Any:
        return embedding(x, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class _Recurrent(Module):
    """What recurrent layers have in common: weights, in torch's layout and under torch's names, and the loop over steps and layers."""

    _gates: int

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = True) -> None:
        name = type(self).__name__
        self.input_size = whole_number(f"{name}: input_size", input_size)
        self.hidden_size = whole_number(f"{name}: hidden_size", hidden_size)
        self.num_layers = whole_number(f"{name}: num_layers", num_layers)
        if batch_first is not True:
            raise SettingError(f"{name}: batches come first, x is (n, length, features); transpose others, and leave batch_first out")
        self.bias, self.batch_first = bias, batch_first
        for layer in range(self.num_layers):
            rows, columns = self._gates * hidden_size, input_size if layer == 0 else hidden_size
            setattr(self, f"weight_ih_l{layer}", Parameter(torch.zeros(rows, columns)))
            setattr(self, f"weight_hh_l{layer}", Parameter(torch.zeros(rows, hidden_size)))
            if bias:
                setattr(self, f"bias_ih_l{layer}", Parameter(torch.zeros(rows)))
                setattr(self, f"bias_hh_l{layer}", Parameter(torch.zeros(rows)))
        self.initialize(None)

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw new weights and biases from `generator`, each as likely from -1/sqrt(hidden_size) to 1/sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            parameter.data.uniform_(-bound, bound, generator=generator)

    def _begin(self, x: Any, given: Any, what: str) -> list[Any]:
        """The state before the first step, of each layer: (n, hidden_size), zeros unless `given` as (num_layers, n, hidden_size)."""
        if given is None:
            return [torch.zeros(x.shape[0], self.hidden_size, dtype=x.dtype, device=x.device) for _ in range(self.num_layers)]
        if tuple(given.shape) != (self.num_layers, x.shape[0], self.hidden_size):
            raise ShapeError(f"{self!r}: {what} must be {(self.num_layers, x.shape[0], self.hidden_size)}; got {tuple(given.shape)}")
        return [given[layer] for layer in range(self.num_layers)]

    def _check(self, x: Any) -> None:
        if x.ndim != 3 or x.shape[2] != self.input_size or not x.shape[1]:
            raise ShapeError(f"{self!r} takes x of shape (n, length, {self.input_size}), of one step or more; got {tuple(x.shape)}")

    def _pre(self, layer: int, x: Any, h: Any) -> Any:
        """What a layer's gates get from the input of all steps at once, or from the state h."""
        kind, value = ("ih", x) if h is None else ("hh", h)
        out = value @ getattr(self, f"weight_{kind}_l{layer}").mT
        return out + getattr(self, f"bias_{kind}_l{layer}") if self.bias else out

    def _run(self, x: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """The outputs of the last layer, (n, length, hidden_size), and each layer's last state."""
        for layer in range(self.num_layers):
            inputs, state = self._pre(layer, x, None), states[layer]
            outputs: list[Any] = []
            for step in range(x.shape[1]):
                state = self._step(layer, inputs[:, step], state)
                outputs.append(state[0] if isinstance(state, tuple) else state)
            x, states[layer] = Stack.apply(*outputs, dim=1), state
        return x, states

    def _step(self, layer: int, gates: Any, state: Any) -> Any:
        raise TypeError(f"{type(self).__name__} declares no step")

    def extra_repr(self) -> str:
        layers = "" if self.num_layers == 1 else f", num_layers={self.num_layers}"
        return f"{self.input_size}, {self.hidden_size}{layers}{'' if self.bias else ', bias=False'}"


class RNN(_Recurrent):
    """The recurrent network of Elman (1990): h' = tanh(W_ih x + b_ih + W_hh h + b_hh) at each step, or relu with nonlinearity="relu".

    Called as `layer(x, h0=None)`, x (n, length, input_size), h0 (num_layers, n, hidden_size), zeros by default: the outputs of the last layer
    (n, length, hidden_size), and the last states, shaped as h0. In a Sequential put `hg.nn.Lambda(lambda out: out[0])` behind.

    >>> outputs, last = hg.nn.RNN(3, 4)(torch.zeros(2, 5, 3))
    >>> outputs.shape, last.shape
    (torch.Size([2, 5, 4]), torch.Size([1, 2, 4]))
    """

    _gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = True,
    ) -> None:
        self.nonlinearity = one_of("RNN: nonlinearity", nonlinearity, ("tanh", "relu"))
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first)

    def _step(self, layer: int, gates: Any, state: Any) -> Any:
        out: Any = gates + self._pre(layer, None, state)
        return out.tanh() if self.nonlinearity == "tanh" else out.relu()

    def forward(self, x: Any, h0: Any = None) -> tuple[Any, Any]:
        self._check(x)
        outputs, states = self._run(x, self._begin(x, h0, "h0"))
        return outputs, Stack.apply(*states, dim=0)


class GRU(_Recurrent):
    """The gated recurrent unit of Cho and others (2014), in torch's form: with r, z = sigmoid(W x + b + V h + c) and
    n = tanh(W_n x + b_n + r (V_n h + c_n)), h' = (1 - z) n + z h. Called and shaped as RNN.

    >>> outputs, last = hg.nn.GRU(3, 4)(torch.zeros(2, 5, 3))
    >>> outputs.shape
    torch.Size([2, 5, 4])
    """

    _gates = 3

    def _step(self, layer: int, gates: Any, state: Any) -> Any:
        size, inner = self.hidden_size, self._pre(layer, None, state)
        r, z = ((gates[:, i * size : (i + 1) * size] + inner[:, i * size : (i + 1) * size]).sigmoid() for i in (0, 1))
        n = (gates[:, 2 * size :] + r * inner[:, 2 * size :]).tanh()
        return n + z * (state - n)

    def forward(self, x: Any, h0: Any = None) -> tuple[Any, Any]:
        self._check(x)
        outputs, states = self._run(x, self._begin(x, h0, "h0"))
        return outputs, Stack.apply(*states, dim=0)


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers and others 2000): with
    i, f, o = sigmoid(W x + b + V h + c) and g = tanh(...) of the same kind, c' = f c + i g and h' = o tanh(c').

    Called as `layer(x, (h0, c0)=None)`, shaped as RNN: the outputs, and the last states (h, c).

    >>> outputs, (h, c) = hg.nn.LSTM(3, 4)(torch.zeros(2, 5, 3))
    >>> outputs.shape, h.shape
    (torch.Size([2, 5, 4]), torch.Size([1, 2, 4]))
    """

    _gates = 4

    def _step(self, layer: int, gates: Any, state: Any) -> Any:
        h, c = state
        size, total = self.hidden_size, gates + self._pre(layer, None, h)
        i, f, g, o = (total[:, k * size : (k + 1) * size] for k in range(4))
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def forward(self, x: Any, states: tuple[Any, Any] | None = None) -> tuple[Any, tuple[Any, Any]]:
        self._check(x)
        h, c = (None, None) if states is None else states
        outputs, last = self._run(x, list(zip(self._begin(x, h, "h0"), self._begin(x, c, "c0"))))
        return outputs, (Stack.apply(*(h for h, _ in last), dim=0), Stack.apply(*(c for _, c in last), dim=0))


class MultiheadAttention(Module):
    """Attention in `num_heads` parts of `embed_dim` (Vaswani and others 2017); see `functional.scaled_dot_product_attention`.

    Called as `layer(query, key, value)`, query (n, l, embed_dim), key and value (n, s, embed_dim), both the query by default: the output
    (n, l, embed_dim) and, with need_weights, the mean weights over heads (n, l, s), else None. `attn_mask` (l, s) or (n * num_heads, l, s) and
    `key_padding_mask` (n, s) are torch's: in a bool mask True is hidden. Weights drop out with probability `dropout` in train mode.

    >>> out, weights = hg.nn.MultiheadAttention(4, 2)(torch.zeros(1, 3, 4))
    >>> out.shape, weights.shape
    (torch.Size([1, 3, 4]), torch.Size([1, 3, 3]))
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, batch_first: bool = True) -> None:
        self.embed_dim, self.num_heads = (
            whole_number("MultiheadAttention: embed_dim", embed_dim),
            whole_number("MultiheadAttention: num_heads", num_heads),
        )
        if embed_dim % num_heads:
            raise SettingError(f"MultiheadAttention: embed_dim must be a multiple of num_heads; got {embed_dim} and {num_heads}")
        if batch_first is not True:
            raise SettingError(
                "MultiheadAttention: batches come first, x is (n, length, features); transpose others, and leave batch_first out"
            )
        self.dropout, self.batch_first = finite_number("MultiheadAttention: dropout", dropout, 0, 1), batch_first
        self.in_proj_weight = Parameter(torch.zeros(3 * embed_dim, embed_dim))
        self.in_proj_bias = Parameter(torch.zeros(3 * embed_dim)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias)
        self.initialize(None)

    @property
    def bias(self) -> bool:
        """Whether it has biases."""
        return self.in_proj_bias is not None

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw new projections from `generator` (Glorot and Bengio 2010); biases become 0."""
        bound = math.sqrt(6 / (4 * self.embed_dim))
        self.in_proj_weight.data.uniform_(-bound, bound, generator=generator)
        if self.in_proj_bias is not None:
            self.in_proj_bias.data.zero_()

    def _heads(self, x: Any, part: int) -> Any:
        """x projected for one of query, key and value: (n, heads, length, embed_dim / heads)."""
        size = self.embed_dim
        out = x @ self.in_proj_weight[part * size : (part + 1) * size].mT
        if self.in_proj_bias is not None:
            out = out + self.in_proj_bias[part * size : (part + 1) * size]
        return out.reshape(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)

    def forward(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
    ) -> tuple[Any, Any]:
        key = query if key is None else key
        value = key if value is None else value
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.ndim != 3 or x.shape[2] != self.embed_dim:
                raise ShapeError(f"{self!r}: {name} must be of shape (n, length, {self.embed_dim}); got {tuple(x.shape)}")
        q, k, v = (self._heads(x, part) for part, x in enumerate((query, key, value)))
        n, heads, length, size = q.shape
        scores = (q @ k.mT) / math.sqrt(size)
        for mask in (attn_mask, None if key_padding_mask is None else key_padding_mask.reshape(n, 1, 1, -1)):
            if mask is not None:
                mask = mask.reshape(n, heads, length, -1) if mask.ndim == 3 else mask
                scores = Where.apply(mask, -math.inf, scores) if mask.dtype is torch.bool else scores + mask
        weights = Softmax.apply(scores, -1)
        seen = functional.dropout(weights, self.dropout, self.training, self.generator)
        out = self.out_proj((seen @ v).transpose(1, 2).reshape(n, length, self.embed_dim))
        return out, weights.mean(1) if need_weights else None

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}"
