"""Captured programs of public forecasters, built small and with random weights from their packages' own code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tqs_fast as tqs
from capturing import TOLERANCE, check_program, interpreted
from cases.modules import seeded
from tqs_fast.capture import capture, verify
from tqs_fast.systems.initial import draw

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


MODELS = (patchtst, patchtsmixer, timesfm, chronos_bolt)


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
        verify(interpreted(capture(system)), system, draw(tqs.Synthetic(count=3), system, horizon=4).state)
