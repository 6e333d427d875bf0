"""Networks as systems, small and with random weights: a row here is checked by the capture tests, and may be by others.

`make()` gives the same system at every call, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tqs_fast as tqs
from cases.modules import seeded

WINDOW = 12


@dataclass(frozen=True)
class NetworkCase:
    """One row.

    Attributes:
        family: test file that checks it.
        kinds: kinds of node that the program must have.
        absent: kinds that it must not have.
    """

    name: str
    family: str
    make: Callable[[], tqs.System]
    kinds: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


CASES: list[NetworkCase] = []


def forecaster(
    name: str,
    family: str,
    make: Callable[[], nn.Module],
    *,
    window: int = WINDOW,
    channels: int = 2,
    block: int = 1,
    kinds: tuple[str, ...] = (),
    absent: tuple[str, ...] = (),
) -> None:
    """A module from a window [N, window, channels] to [N, channels] or [N, block, channels]."""

    def build() -> tqs.System:
        return tqs.Forecaster(seeded(make)(), window, channels=channels, block=block, name=name)

    CASES.append(NetworkCase(name, family, build, kinds, absent))


def recurrent(
    name: str,
    family: str,
    make: Callable[[], nn.Module],
    sizes: tuple[tuple[int, ...], ...],
    *,
    kinds: tuple[str, ...] = (),
) -> None:
    """A module from state leaves to (new leaves, output)."""

    def build() -> tqs.System:
        def start(count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
            return tuple(torch.randn(count, *size, generator=generator) for size in sizes)

        def step(module: nn.Module, state: tuple[Tensor, ...]) -> tuple[Any, Tensor]:
            *after, output = module(*state)
            return tuple(after), output

        return tqs.Recurrent(seeded(make)(), step=step, initial_state=start, name=name)

    CASES.append(NetworkCase(name, family, build, kinds))


# ---------------------------------------------------------------- recurrent


class Layered(nn.Module):
    """A recurrent network over the window, and a linear layer on its last output."""

    def __init__(self, inner: nn.RNNBase) -> None:
        super().__init__()
        self.inner = inner
        width = (inner.proj_size or inner.hidden_size) * (2 if inner.bidirectional else 1)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.inner(x)
        return self.head(y[:, -1])


class CellStep(nn.Module):
    """One step of a cell that sees its own output."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(cell.hidden_size, 3)

    def forward(self, value: Tensor, *hidden: Tensor) -> tuple[Tensor, ...]:
        after = self.cell(value, hidden if len(hidden) == 2 else hidden[0])
        after = after if isinstance(after, tuple) else (after,)
        value = value + self.head(after[0])
        return value, *after, value


class Carried(nn.Module):
    """Layers of a recurrent network that carry their state [N, layers, hidden] from step to step."""

    def __init__(self, inner: nn.RNNBase) -> None:
        super().__init__()
        self.inner = inner
        self.head = nn.Linear(inner.hidden_size, 3)

    def forward(self, value: Tensor, *hidden: Tensor) -> tuple[Tensor, ...]:
        given = tuple(h.transpose(0, 1).contiguous() for h in hidden)
        y, after = self.inner(value[:, None], given if len(given) == 2 else given[0])
        after = after if isinstance(after, tuple) else (after,)
        value = 0.5 * value + self.head(y[:, -1]).tanh()
        return value, *(h.transpose(0, 1) for h in after), value


for _kind, _name in ((nn.LSTM, "LSTM"), (nn.GRU, "GRU"), (nn.RNN, "RNN")):
    forecaster(f"{_name}-2-layers", "recurrent", lambda kind=_kind: Layered(kind(2, 5, 2, batch_first=True)), window=4)
    forecaster(
        f"{_name}-bidirectional",
        "recurrent",
        lambda kind=_kind: Layered(kind(2, 5, batch_first=True, bidirectional=True)),
        window=4,
    )
recurrent("GRU-carried", "recurrent", lambda: Carried(nn.GRU(3, 6, 2, batch_first=True)), ((3,), (2, 6)))
recurrent("LSTM-carried", "recurrent", lambda: Carried(nn.LSTM(3, 6, 2, batch_first=True)), ((3,), (2, 6), (2, 6)))
recurrent("GRUCell", "recurrent", lambda: CellStep(nn.GRUCell(3, 7)), ((3,), (7,)))
recurrent("LSTMCell", "recurrent", lambda: CellStep(nn.LSTMCell(3, 7)), ((3,), (7,), (7,)))
recurrent("RNNCell", "recurrent", lambda: CellStep(nn.RNNCell(3, 7, nonlinearity="relu")), ((3,), (7,)))


# ---------------------------------------------------------------- feed-forward and convolutions


class MLP(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor], norm: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WINDOW * 2, 9), nn.Linear(9, 2)
        self.norm = norm(9) if norm else nn.Identity()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.activation(self.norm(self.first(x.flatten(1)))))


class TemporalConvolution(nn.Module):
    """Dilated causal convolutions with residuals; the last position forecasts."""

    def __init__(self, width: int = 6, levels: int = 3, depthwise: bool = False) -> None:
        super().__init__()
        self.inlet = nn.Conv1d(2, width, 1)
        groups = width if depthwise else 1
        self.levels = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=2**i, groups=groups) for i in range(levels))
        self.outlet = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inlet(x.transpose(1, 2))
        for level in self.levels:
            padded = F.pad(y, (2 * level.dilation[0], 0))
            y = y + F.gelu(level(padded))
        return self.outlet(y[..., -1])


class Image(nn.Module):
    """Convolutions over a window seen as an image; strides, padding, pooling, batch and group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, (3, 2), padding=1, stride=(2, 1))
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, padding=(1, 2), groups=2, dilation=(1, 2))
        self.groups = nn.GroupNorm(3, 6)
        self.head = nn.Linear(6, 2)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(F.relu(self.norm(self.first(x[:, None]))), 2, stride=1, padding=1)
        return self.head(F.leaky_relu(self.groups(self.second(y))).mean((2, 3)))


class WeightNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(WINDOW * 2, 8))
        self.second = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.flatten(1)).tanh()[..., None])[..., 0]


forecaster("MLP-relu", "feedforward", lambda: MLP(F.relu))
forecaster("MLP-silu-batchnorm", "feedforward", lambda: MLP(F.silu, nn.BatchNorm1d))
forecaster("MLP-elu-rmsnorm", "feedforward", lambda: MLP(F.elu, nn.RMSNorm))
forecaster("MLP-mish", "feedforward", lambda: MLP(F.mish))
forecaster("MLP-hardswish", "feedforward", lambda: MLP(F.hardswish))
forecaster("MLP-softplus", "feedforward", lambda: MLP(lambda x: F.softplus(x, beta=2, threshold=1)))


class Upsampling(nn.Module):
    """Transposed convolutions over a line and over a plane: strides, padding that cuts more than the taps reach, output
    padding, groups, dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.ConvTranspose1d(2, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.cut = nn.ConvTranspose1d(6, 3, 2, stride=2, padding=2)
        self.plane = nn.ConvTranspose2d(1, 4, (2, 3), stride=(3, 1), padding=(1, 0), dilation=(2, 1), bias=False)
        self.point = nn.ConvTranspose2d(4, 2, 1, stride=(1, 2))
        self.head = nn.Linear(2, 2)

    def forward(self, window: Tensor) -> Tensor:
        x = torch.tanh(self.cut(torch.tanh(self.line(window.transpose(1, 2)))))
        x = self.point(torch.tanh(self.plane(x[:, None])))
        return torch.tanh(self.head(x.mean(dim=(2, 3)) * 4))


forecaster("TCN", "feedforward", TemporalConvolution, kinds=("convolution",))
forecaster("TCN-depthwise", "feedforward", lambda: TemporalConvolution(depthwise=True), kinds=("convolution",))
forecaster("Conv2d", "feedforward", Image)
forecaster("ConvTranspose", "feedforward", Upsampling, kinds=("convolution", "remap"))
forecaster("weight-norm", "feedforward", WeightNormed)


# ---------------------------------------------------------------- transformers


class Sinusoidal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        length, width = x.shape[1:]
        position = torch.arange(length, device=x.device)[:, None]
        rate = torch.exp(torch.arange(0, width, 2, device=x.device) * (-math.log(100.0) / width))
        table = torch.zeros(length, width, device=x.device, dtype=x.dtype)
        table[:, 0::2], table[:, 1::2] = torch.sin(position * rate), torch.cos(position * rate)
        return x + table


class Learned(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(WINDOW, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table(torch.arange(x.shape[1], device=x.device))


class Encoder(nn.Module):
    """torch's own layers; the last position forecasts."""

    def __init__(self, positions: nn.Module, causal: bool, **options: Any) -> None:
        super().__init__()
        self.inlet = nn.Linear(2, 8)
        self.positions = positions
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, **options)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.outlet = nn.Linear(8, 2)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        h = self.positions(self.inlet(x))
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype) if self.causal else None
        return self.outlet(self.layers(h, mask=mask, is_causal=self.causal)[:, -1])


class Decoder(nn.Module):
    """Cross-attention from learned queries to the window."""

    def __init__(self) -> None:
        super().__init__()
        self.inlet = nn.Linear(2, 8)
        self.queries = nn.Parameter(torch.randn(3, 8))
        layer = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True, norm_first=True)
        self.layers = nn.TransformerDecoder(layer, 2)
        self.outlet = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.inlet(x)
        return self.outlet(self.layers(self.queries.expand(x.shape[0], -1, -1), memory))


def rotate(x: Tensor, base: float = 100.0) -> Tensor:
    """Rotary positions on [..., S, E]."""
    length, width = x.shape[-2:]
    rate = base ** (-torch.arange(0, width, 2, device=x.device, dtype=x.dtype) / width)
    angle = torch.arange(length, device=x.device, dtype=x.dtype)[:, None] * rate
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class LlamaLayer(nn.Module):
    """RMSNorm, rotary positions, grouped queries, SwiGLU."""

    def __init__(self, width: int = 8, heads: int = 4, groups: int = 2, repeat: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.heads, self.groups, self.size, self.repeat = heads, groups, width // heads, repeat
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, groups * self.size, bias=False)
        self.v = nn.Linear(width, groups * self.size, bias=False)
        self.gate, self.up = nn.Linear(width, 12, bias=False), nn.Linear(width, 12, bias=False)
        self.down = nn.Linear(12, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (
            part(h).unflatten(-1, (count, self.size)).transpose(1, 2)
            for part, count in ((self.q, self.heads), (self.k, self.groups), (self.v, self.groups))
        )
        q, k = rotate(q), rotate(k)
        if self.repeat:
            k, v = (part.repeat_interleave(self.heads // self.groups, dim=1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=not self.repeat)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class HandAttention(nn.Module):
    """Softmax written out, with a boolean mask and a relative bias."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.bias = nn.Linear(8, 24), nn.Parameter(torch.randn(2, WINDOW, WINDOW))

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        q, k, v = self.qkv(x).view(count, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        scores = torch.einsum("nhsd,nhtd->nhst", q, k) / 2 + self.bias
        hidden = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return x + torch.einsum("nhst,nhtd->nshd", weights, v).flatten(2)


class WrittenOut(nn.Module):
    """softmax(scale q k^T) v with a mask: constant and causal, computed, with the lowest number, or over whole rows."""

    def __init__(self, mask: str) -> None:
        super().__init__()
        self.q, self.k, self.v, self.mask = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), mask

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        scores = 0.6 * (q @ k.mT)
        length = x.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        lowest = torch.finfo(x.dtype).min
        if self.mask == "causal":
            scores = scores.masked_fill(later, -torch.inf)
        elif self.mask == "computed":
            seen = (x[..., 0] < x[..., 1] + 1)[:, None, None] | ~later.T
            scores = torch.where(seen, scores, -torch.inf)
        elif self.mask == "lowest":
            scores = scores + torch.zeros(length, length, dtype=x.dtype).masked_fill(later, lowest)
        elif self.mask == "row-hidden":  # such a row sees all keys alike
            scores = scores.masked_fill(later.flip(0), lowest).masked_fill((x[..., :1] > 0)[:, None], lowest)
        weights = scores.softmax(-1)
        y = (weights @ v).transpose(1, 2).flatten(2)
        return x + (y * weights.sum(dim=(1, 3))[..., None] if self.mask == "weights" else y)


class Stack(nn.Module):
    def __init__(self, *layers: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.inlet, self.layers, self.outlet = nn.Linear(2, width), nn.Sequential(*layers), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.outlet(self.layers(self.inlet(x))[:, -1])


class PaddingMask(nn.Module):
    """MultiheadAttention with a mask computed from the values, and its averaged weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x[..., 0] > x[..., 1] + 3
        y, weights = self.attention(x, x, x, key_padding_mask=hidden, need_weights=True)
        return y * weights.sum(1)[..., None]


for _first in (False, True):
    for _causal in (False, True):
        forecaster(
            f"encoder-{'pre' if _first else 'post'}-norm-{'causal' if _causal else 'full'}",
            "transformers",
            lambda first=_first, causal=_causal: Encoder(
                Sinusoidal() if causal else Learned(8), causal, norm_first=first, activation="gelu" if first else "relu"
            ),
            kinds=("attention", "normalize"),
            absent=("softmax",),
        )
forecaster("decoder", "transformers", Decoder, block=3, kinds=("attention",))
forecaster("llama", "transformers", lambda: Stack(LlamaLayer(), LlamaLayer()), kinds=("attention", "normalize"))
forecaster("llama-repeated-keys", "transformers", lambda: Stack(LlamaLayer(repeat=True)), kinds=("attention",))
forecaster(
    "attention-by-hand", "transformers", lambda: Stack(HandAttention()), kinds=("attention",), absent=("softmax",)
)
for _mask in ("none", "causal", "computed", "lowest", "row-hidden"):
    forecaster(
        f"attention-written-out-{_mask}",
        "transformers",
        lambda mask=_mask: Stack(WrittenOut(mask)),
        kinds=("attention",),
        absent=("softmax", "matmul"),
    )
forecaster("attention-weights-returned", "transformers", lambda: Stack(WrittenOut("weights")), kinds=("softmax",))
forecaster("attention-padding", "transformers", lambda: Stack(PaddingMask()))


# ---------------------------------------------------------------- time series


class Reversible(nn.Module):
    """RevIN: each window by its own mean and deviation, and back; patches of it through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(2) + 0.5), nn.Parameter(torch.randn(2))
        self.patch, self.head = nn.Linear(4, 6), nn.Linear(6 * 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        deviation = torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5)
        y = (x - mean) / deviation * self.weight + self.bias
        patches = y.transpose(1, 2).unfold(-1, 4, 2)
        y = self.head(F.gelu(self.patch(patches)).flatten(2)).transpose(1, 2)
        return (y - self.bias) / (self.weight + 1e-10) * deviation + mean


class Selective(nn.Module):
    """A selective state-space layer: h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t, y_t = C_t h_t.

    Args:
        form: "loop", "doubling" (associative scan by repeated doubling) or "cumsum" (in log space).
    """

    def __init__(self, form: str, width: int = 4, states: int = 3) -> None:
        super().__init__()
        self.form = form
        self.inlet, self.outlet = nn.Linear(2, width), nn.Linear(width, 2)
        self.mixer = nn.Conv1d(width, width, 3, padding=2, groups=width)
        self.delta, self.b, self.c = nn.Linear(width, width), nn.Linear(width, states), nn.Linear(width, states)
        self.log_a = nn.Parameter(torch.log(torch.arange(1, states + 1).float()).repeat(width, 1))

    def forward(self, window: Tensor) -> Tensor:
        x = self.inlet(window)
        x = F.silu(self.mixer(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        delta = F.softplus(self.delta(x))[..., None]
        rate = delta * -torch.exp(self.log_a)  # [N, L, width, states]
        drive = delta * self.b(x)[:, :, None] * x[..., None]
        y = (getattr(self, self.form)(rate, drive) * self.c(x)[:, :, None]).sum(-1)
        return self.outlet(y[:, -1])

    def loop(self, rate: Tensor, drive: Tensor) -> Tensor:
        h, path = torch.zeros_like(drive[:, 0]), []
        for t in range(rate.shape[1]):
            h = torch.exp(rate[:, t]) * h + drive[:, t]
            path.append(h)
        return torch.stack(path, 1)

    def doubling(self, rate: Tensor, drive: Tensor) -> Tensor:
        decay, value, shift = torch.exp(rate), drive, 1
        while shift < rate.shape[1]:
            before = F.pad(value, (0, 0, 0, 0, shift, 0))[:, :-shift]
            value = value + decay * before
            decay = decay * F.pad(decay, (0, 0, 0, 0, shift, 0), value=1.0)[:, :-shift]
            shift *= 2
        return value

    def cumsum(self, rate: Tensor, drive: Tensor) -> Tensor:
        total = torch.cumsum(rate, 1)
        return torch.exp(total) * torch.cumsum(drive * torch.exp(-total), 1)


class Fourier(nn.Module):
    """Filters in the frequency domain, and a spectrum of absolute values."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(WINDOW // 2 + 1, 2, 2))
        self.head = nn.Linear(2 * (WINDOW // 2 + 1), 2)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x, dim=1, norm="ortho")
        filtered = torch.fft.irfft(spectrum * torch.view_as_complex(self.filter), n=x.shape[1], dim=1, norm="ortho")
        mixed = torch.fft.fft2(x).real.mean(1) * 0.01
        return self.head(spectrum.abs().flatten(1)) + filtered[:, -1] + mixed


class Tokens(nn.Module):
    """Values become tokens of a small vocabulary; their embeddings forecast logits, and likely tokens are next."""

    def __init__(self, words: int = 11) -> None:
        super().__init__()
        self.words = words
        self.embedding, self.head = nn.Embedding(words, 6), nn.Linear(6 * WINDOW, words)
        self.register_buffer("centres", torch.linspace(-2, 2, words))

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.clamp((x[..., 0] + 2) / 4 * (self.words - 1), 0, self.words - 1).round().long()
        logits = self.head(self.embedding(tokens).flatten(1))
        best = logits.topk(3, -1).indices
        chosen = self.centres[best].mean(-1, keepdim=True)
        likely = (logits.softmax(-1) * self.centres).sum(-1, keepdim=True)
        return torch.cat([chosen + likely, self.centres[logits.argmax(-1)][:, None]], -1)


class Movement(nn.Module):
    """Rolls, flips, pads, repeats, stacks, writes into parts, sorts, windows with missing values."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.roll(x, (1, -2), (1, 2)) + x.flip(1) + F.pad(x, (1, 0, 2, 0), mode="replicate")[:, 2:, 1:]
        y = y.clone()
        y[:, 1::3, 0] = x[:, ::3, 1].cumsum(1)[:, : y[:, 1::3].shape[1]]
        y[:, -1] = -x[:, 0]
        y[y > 3] = 0.5
        ranked, places = x[..., 0].sort(1, descending=True)
        rows = torch.stack([y[:, ::5].sum((1, 2)), ranked[:, 2], x[..., 1].gather(1, places)[:, 1]], 1)
        interpolated = F.interpolate(x.transpose(1, 2), size=7, mode="linear")[..., 3]
        more = torch.cat([x.std(1), x.median(1).values[:, :1], interpolated[:, 1:]], 1)
        trace = torch.diagonal(x[:, :2] * 2, dim1=1, dim2=2).prod(1, keepdim=True)
        return self.head(torch.cat([rows + trace, more[:, 1:]], 1)) + x.repeat(1, 2, 1)[:, 5].clamp(-1, 1)


class Extremes(nn.Module):
    """Running extremes of a window and what another channel was there."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        highest, when = x.round().cummax(1)  # rounded: with ties
        lowest, where = torch.cummin(x, -2)
        across, channel = x.flip(2).cummax(2)
        seen = x[..., 1].gather(1, when[..., 0]) - x[..., 0].gather(1, where[..., 1])
        fell = (highest - lowest)[:, 3::4].sum(1)
        parts = [fell, seen.sum(1, True), across.sum(1), channel.sum(1).float() / WINDOW]
        return self.head(torch.cat(parts, 1))


forecaster("revin-patches", "series", Reversible, block=3)
forecaster("mamba-loop", "series", lambda: Selective("loop"), window=6)
forecaster("mamba-doubling", "series", lambda: Selective("doubling"), window=6)
forecaster("mamba-cumsum", "series", lambda: Selective("cumsum"), window=6, kinds=("scan",))
forecaster("fourier", "series", Fourier)
forecaster("tokens", "series", Tokens, kinds=("gather", "top_k"))
forecaster("movement", "series", Movement)
forecaster("extremes", "series", Extremes, kinds=("running_extreme", "gather"))
