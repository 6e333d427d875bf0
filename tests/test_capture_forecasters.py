"""Captured programs of public forecasters, built small and with random weights from their packages' own code.

They are skipped where a package is missing: `pip install -c constraints.txt -e '.[test,forecasters]'` installs all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tqs_fast as tqs
from capturing import TOLERANCE, check_program
from cases.modules import seeded

CONTEXT = 32


def patchtst() -> tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor], dict[str, Any]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.PatchTSTConfig(
        num_input_channels=2,
        context_length=CONTEXT,
        prediction_length=3,
        patch_length=8,
        patch_stride=4,
        d_model=8,
        num_attention_heads=2,
        num_hidden_layers=2,
        ffn_dim=12,
        loss="mse",
        use_cls_token=True,
    )

    def predict(module: nn.Module, window: Tensor) -> Tensor:
        return module(past_values=window).prediction_outputs

    return lambda: transformers.PatchTSTForPrediction(config), predict, {"channels": 2, "block": 3}


def patchtsmixer() -> tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor], dict[str, Any]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.PatchTSMixerConfig(
        num_input_channels=2,
        context_length=CONTEXT,
        prediction_length=3,
        patch_length=8,
        patch_stride=8,
        d_model=8,
        num_layers=2,
        loss="mse",
        mode="mix_channel",
        gated_attn=True,
        self_attn=True,
        self_attn_heads=2,
    )

    def predict(module: nn.Module, window: Tensor) -> Tensor:
        return module(past_values=window).prediction_outputs

    return lambda: transformers.PatchTSMixerForPrediction(config), predict, {"channels": 2, "block": 3}


def timesfm() -> tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor], dict[str, Any]]:
    """TimesFM 2.5 of the timesfm package, without its caches, whose positions it computes."""
    pytest.importorskip("timesfm")
    from timesfm.timesfm_2p5 import timesfm_2p5_torch as package

    full = package.TimesFM_2p5_200M_torch_module.config
    layer = replace(full.stacked_transformers.transformer, model_dims=16, hidden_dims=16, num_heads=2)

    class Small(package.TimesFM_2p5_200M_torch_module):
        config = replace(
            full,
            input_patch_len=8,
            output_patch_len=8,
            output_quantile_len=8,
            tokenizer=replace(full.tokenizer, input_dims=16, hidden_dims=16, output_dims=16),
            stacked_transformers=replace(full.stacked_transformers, num_layers=2, transformer=layer),
            output_projection_point=replace(
                full.output_projection_point, input_dims=16, hidden_dims=16, output_dims=80
            ),
            output_projection_quantiles=replace(
                full.output_projection_quantiles, input_dims=16, hidden_dims=16, output_dims=80
            ),
        )

    def predict(module: nn.Module, window: Tensor) -> Tensor:
        size, mean = torch.std_mean(window, dim=1, keepdim=True)
        patches = ((window - mean) / size).reshape(len(window), -1, module.p)
        (_, _, quantiles, _), _ = module(patches, torch.zeros_like(patches, dtype=torch.bool))
        return mean + size * quantiles[:, -1].reshape(-1, module.o, module.q)[:, :4, module.aridx, None]

    return Small, predict, {"block": 4}


def timesfm_of_transformers() -> tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor], dict[str, Any]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.TimesFm2_5Config(
        patch_length=8,
        context_length=CONTEXT,
        horizon_length=4,
        output_quantile_len=4,
        num_hidden_layers=2,
        hidden_size=16,
        intermediate_size=16,
        head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=2,
    )

    def predict(module: nn.Module, window: Tensor) -> Tensor:
        # otherwise its sign rule looks at the smallest value of the whole batch
        return module(past_values=list(window[..., 0]), truncate_negative=False).mean_predictions[..., None]

    return lambda: transformers.TimesFm2_5ModelForPrediction(config), predict, {"block": 4}


def chronos_bolt() -> tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor], dict[str, Any]]:
    transformers = pytest.importorskip("transformers")
    bolt = pytest.importorskip("chronos.chronos_bolt")
    config = transformers.T5Config(
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        is_encoder_decoder=True,
        decoder_start_token_id=0,
    )
    config.chronos_config = {
        "context_length": CONTEXT,
        "prediction_length": 4,
        "input_patch_size": 8,
        "input_patch_stride": 8,
        "quantiles": [0.1, 0.5, 0.9],
        "use_reg_token": True,
    }

    def predict(module: nn.Module, window: Tensor) -> Tensor:
        return module(context=window[..., 0]).quantile_preds[:, 1, :, None]

    return lambda: bolt.ChronosBoltModelForForecasting(config), predict, {"block": 4}


MODELS = (patchtst, patchtsmixer, timesfm, timesfm_of_transformers, chronos_bolt)


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("model", MODELS)
def test_program_follows_torch(model: Callable[[], Any], dtype: torch.dtype):
    make, predict, options = model()
    system = tqs.Forecaster(seeded(make)(), CONTEXT, predict=predict, name=model.__name__, **options)
    # some convert to float32 on their way whatever they are given
    exact = model in (patchtst, patchtsmixer)
    program = check_program(system, dtype, TOLERANCE[dtype if exact else torch.float32])
    assert {"linear"} <= {node.kind for node in program.nodes}
    if dtype == torch.float32:
        state = system.initial_state(3, torch.Generator().manual_seed(0))
        tqs.rollout(system, state, horizon=3 * system.block, engine="native")  # compares its first steps with torch's
