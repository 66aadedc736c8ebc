"""The configuration of a training, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmnet_maps.model.spec import Networks, Profile
from mmnet_maps.settings import read_model


class TrainConfig(Profile):
    """Inputs, network and training: the YAML file of ``mmnet train --config``."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description="Name of the model: letters, digits, dot, dash and underscore.",
    )
    inputs: dict[str, str] = Field(
        default={}, description="The product behind each variable of the samples, for model.json."
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seeds weights, dropout, the order of rows and the split.")
    validation: Literal["stations", "time", "none"] = Field(
        default="stations",
        description="Rows held out for early stopping: whole stations (a model for places without stations), the last "
        "days (a model for later days at the same stations), or none (every epoch is trained).",
    )
    validation_fraction: float = Field(
        default=0.125, gt=0, le=0.5, description="Share of the stations, or of the days, that is held out."
    )
    station_mean_weight: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Weight of a station's mean error within a batch, against 1 for the errors "
        "around it: below 1, variation in time matters more than the mean level, which inputs may not explain.",
    )
    max_epochs: int = Field(default=10, ge=1, le=1000, description="Epochs; the learning rate falls to 0 over them.")
    patience: int = Field(default=3, ge=1, le=1000, description="Epochs without a better validation before stopping.")
    epoch_fraction: float = Field(
        default=0.5, gt=0, le=1, description="Share of the rows drawn for each epoch: neighbouring days are similar."
    )
    batch: int = Field(default=256, ge=8, le=65536, description="Rows per step.")
    learning_rate: float = Field(default=0.002, gt=0, le=1, description="Adam's, after a warm-up of 50 steps.")
    weight_decay: float = Field(default=5e-4, ge=0, le=1, description="L2 penalty on all weights, within Adam.")
    averaging: float = Field(
        default=0.98, ge=0, lt=1, description="Decay of the running average of the weights that is kept; 0: none."
    )
    dropout: float = Field(default=0.2, ge=0, lt=1, description="Dropout rate p; the noise has p / (1 - p).")
    networks: Networks = Field(
        default=1, description="Networks side by side, trained apart on the same rows; the estimate is their mean."
    )
    d_model: Annotated[int, Field(ge=4, le=4096, multiple_of=4, description="Width of the embeddings.")] = 128
    heads: int = Field(default=16, ge=1, le=256, description="Attention heads; they divide d_model.")
    feedforward: int = Field(default=256, ge=1, le=16384, description="Width of the encoder's feedforward part.")
    hide_history: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the rows of a batch whose steps of several days are hidden, as in shorter series.",
    )

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of heads {self.heads}")
        return self


def read_config(path: str | Path) -> TrainConfig:
    """Read a training configuration (YAML).

    Raises
    ------
    RequestError
        The file does not exist, is not YAML, or a field is missing, unknown or out of bounds.
    """
    return read_model(path, TrainConfig, "training configuration")
