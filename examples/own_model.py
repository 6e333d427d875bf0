"""Your own model, end to end: train a small forecaster on a noisy oscillation, then score, plan, pack and verify it.

python examples/own_model.py
"""

import torch
from torch import nn

import tqs_fast as tqs

CONTEXT, CHANNELS = 24, 2


class Forecaster(nn.Module):
    """A window [N, 24, 2] in, the next value [N, 2] out."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(CHANNELS, 48, batch_first=True)
        self.head = nn.Sequential(nn.Linear(48, 64), nn.SiLU(), nn.Linear(64, CHANNELS))

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        features, _ = self.gru(window)
        return window[:, -1] + self.head(features[:, -1])


def van_der_pol(count: int, steps: int) -> torch.Tensor:
    """Trajectories [count, steps, 2] of the Van der Pol oscillator, sampled every 0.2."""
    z, path = 2 * torch.randn(count, 2), []
    for _ in range(steps):
        for _ in range(20):
            z = z + 0.01 * torch.stack([z[:, 1], (1 - z[:, 0] ** 2) * z[:, 1] - z[:, 0]], dim=1)
        path.append(z)
    return torch.stack(path, dim=1)


def train(steps: int = 400) -> Forecaster:
    """One-step prediction on random windows."""
    torch.manual_seed(0)
    model, series = Forecaster(), van_der_pol(64, 120)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        start = int(torch.randint(0, 120 - CONTEXT - 1, ()))
        loss = (model(series[:, start : start + CONTEXT]) - series[:, start + CONTEXT]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def main() -> None:
    model = train()
    system = tqs.Forecaster(model, CONTEXT, channels=CHANNELS)
    table = tqs.score(system, horizon=48, initial=tqs.Attractor(count=32))
    print(table)

    plan = tqs.allocate(table, average_bits=5.0)
    print(plan)

    small = tqs.quantize(model, plan)
    tqs.save(small, "own_model.safetensors")
    small = tqs.load(model, "own_model.safetensors")
    print(tqs.evaluate(system, small, horizon=48))


if __name__ == "__main__":
    main()
