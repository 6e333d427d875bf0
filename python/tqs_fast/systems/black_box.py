"""Programs whose weights cannot be reached: scored by noise that the user's own code injects where the user says."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Mapping

import torch

from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.held import Swappable, qualified_names
from tqs_fast.systems.system import InitialState, Inputs, Step, System
from tqs_fast.systems.tree import Tree

Perturb = Callable[[dict[str, torch.Tensor]], Step]


class BlackBoxModule(Swappable):
    """Stands for the program: its parameters are Gaussian stand-ins of root mean square 1, one per place.

    Args:
        step: the program.
        perturb: makes the program noisy.
        places: name -> shape.
    """

    def __init__(self, step: Step, perturb: Perturb, places: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._perturb = perturb
        self._place = dict(zip(qualified_names(list(places)), places, strict=True))
        self.hold({name: (_stand_in(place, tuple(places[place])), "noise") for name, place in self._place.items()})
        self.run = step

    def with_weights(self, replaced: Mapping[str, torch.Tensor]) -> BlackBoxModule:
        """The program with noise: what replaced stand-ins differ by."""
        other = copy.copy(self)
        own = dict(self.named_parameters())
        noise = {self._place[name]: tensor - own[name].detach() for name, tensor in replaced.items()}
        other.run = self._perturb(noise) if noise else self.run
        return other


class BlackBox(System):
    """A program behind a callable, a compiled engine say.

    Nothing is known of its weights, so every place of noise gets a stand-in with normal values: `Noise()` injects
    noise of the same relative size everywhere, and damages at b bits are those of weights that round as normal ones do.
    The places are the layers of the table.

    Args:
        step: `step(state)`, or `step(state, input)` for a driven system -> (state, output), as in `System` without the
            module.
        perturb: `perturb(noise)` -> a step like `step`, with the noise in it; `noise` is place -> tensor of the place's
            shape, relative: to be multiplied by the root mean square of what it is added to (a weight, an activation).
        places: place -> shape `[outputs, ...]` of what is there; sizes in bytes come from it.
        initial_state, inputs, block, default_initial, name: as in `System`.

    Raises:
        ArgumentError: no callables, no place, or a place of fewer than two dimensions.
    """

    def __init__(
        self,
        step: Step,
        perturb: Perturb,
        *,
        places: Mapping[str, tuple[int, ...]],
        initial_state: InitialState,
        inputs: Inputs | None = None,
        block: int = 1,
        default_initial: str = "attractor",
        name: str = "black-box",
    ) -> None:
        if not callable(step) or not callable(perturb):
            raise ArgumentError("[BlackBox] step and perturb must be functions")
        wrong = [place for place, shape in places.items() if len(shape) < 2 or min(shape) < 1]
        if not places or wrong:
            got = f"{wrong[0]!r} with {list(places[wrong[0]])}" if wrong else "none"
            raise ArgumentError(f"[BlackBox] expected places with shapes [outputs, inputs, ...], got {got}")

        def through(module: BlackBoxModule, state: Tree, *step_input: Tree) -> tuple[Tree, torch.Tensor]:
            return module.run(state, *step_input)

        super().__init__(
            BlackBoxModule(step, perturb, places),
            step=through,
            initial_state=initial_state,
            inputs=inputs,
            block=block,
            default_initial=default_initial,
            name=name,
        )


def _stand_in(place: str, shape: tuple[int, ...]) -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(place.encode())))
    return drawn / drawn.square().mean().sqrt()
