"""Training for free rollouts: noise on what a rollout starts from, and losses over several of its own values.

Noise makes errors of the size that rollouts make part of the data; unrolled losses make the network pay for where its
own values lead. Now and then rollouts start far off the data, at a small weight: the network learns to come back, which
random states have to do before they are of use. Single precision on one thread from fixed seeds: the same weights at
every run on one machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from evaluate.systems.forms import Form

FAR_EVERY, FAR_COUNT = 4, 32  # updates between rollouts from far off, and how many
FAR_NOISE, FAR_WEIGHT = 0.5, 0.01  # their noise, and the share of their loss: their errors are large whatever one does
DECAY = 0.99  # of the running mean of the weights that is kept: less noise than the last iterate


@dataclass(frozen=True)
class Stage:
    """A part of training.

    Attributes:
        updates: steps of the optimiser.
        values: that each rollout is unrolled for.
        rate: learning rate it begins with; it falls to a twentieth along half a cosine.
    """

    updates: int
    values: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        build: makes the untrained network.
        form: how it becomes a system.
        stages: in turn.
        noise: standard deviation, in units of the data, of what is added to the values that a rollout starts from.
        batch: rollouts per update.
    """

    build: Callable[[], nn.Module]
    form: Form
    stages: tuple[Stage, ...]
    noise: float = 0.01
    batch: int = 128
    seed: int = 0


def train(recipe: Recipe, series: np.ndarray) -> tuple[nn.Module, dict[str, float]]:
    """The network, and what training took.

    Args:
        series: `[S, values, C]`, standardised; windows are drawn from it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        module = recipe.build().train()
    generator = torch.Generator().manual_seed(recipe.seed)
    data = torch.from_numpy(series).float()
    average = [parameter.detach().clone() for parameter in module.parameters()]
    recent = 0.0
    for stage in recipe.stages:
        optimiser = torch.optim.AdamW(module.parameters(), lr=stage.rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, stage.updates, eta_min=stage.rate / 20)
        for update in range(stage.updates):
            loss = noisy_loss(recipe, module, data, stage.values, recipe.batch, recipe.noise, generator)
            if update % FAR_EVERY == 0:
                far = noisy_loss(recipe, module, data, stage.values, FAR_COUNT, FAR_NOISE, generator)
                loss = loss + FAR_WEIGHT * far
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            recent = 0.98 * recent + 0.02 * float(loss.detach())
            with torch.no_grad():
                for kept, parameter in zip(average, module.parameters(), strict=True):
                    kept.lerp_(parameter, 1 - DECAY)
    with torch.no_grad():
        for kept, parameter in zip(average, module.parameters(), strict=True):
            parameter.copy_(kept)
    torch.set_num_threads(threads)
    seconds = time.perf_counter() - begin
    count = sum(parameter.numel() for parameter in module.parameters())
    return module.eval(), {"seconds": seconds, "loss": recent, "parameters": count}


def noisy_loss(
    recipe: Recipe,
    module: nn.Module,
    data: torch.Tensor,
    values: int,
    count: int,
    noise: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Of `count` rollouts from pieces of `data` with `noise` on them."""
    given, after = draw(data, recipe.form.context, values, count, generator)
    return recipe.form.loss(module, given + noise * torch.randn(given.shape, generator=generator), after)


def draw(
    data: torch.Tensor, context: int, values: int, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """`[count, context, C]` and what followed `[count, values, C]`, from random places of `[S, T, C]`."""
    which = torch.randint(len(data), (count,), generator=generator)
    first = torch.randint(data.shape[1] - context - values + 1, (count,), generator=generator)
    places = first[:, None] + torch.arange(context + values)
    pieces = data[which[:, None], places]
    return pieces[:, :context], pieces[:, context:]
