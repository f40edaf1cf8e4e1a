"""The flows that train what ships with the project on the demo cohort's generator."""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.config import described
from tasks.demo.autoencoder import AutoencoderTraining, train_autoencoder
from tasks.demo.shipped import WEIGHTS
from tasks.demo.training import TrainingConfig, train


@flow(name="train-reference", persist_result=False)
def train_reference(
    config: Annotated[TrainingConfig, described("The recipe")],
    folder: Annotated[Path, described("Where weights and recipe are written")] = WEIGHTS,
) -> dict[str, Any]:
    """Train one of the networks; write its weights and the recipe with the held-out AUC."""
    return task(name="train", cache_policy=NO_CACHE, persist_result=False)(train)(config, folder)


@flow(name="train-autoencoder", persist_result=False)
def train_reference_autoencoder(
    config: Annotated[AutoencoderTraining, described("The recipe")],
    folder: Annotated[Path, described("Where weights and recipe are written")] = WEIGHTS,
) -> dict[str, Any]:
    """Train the autoencoder of counterfactuals; write its weights and the recipe with the held-out error."""
    return task(name="train", cache_policy=NO_CACHE, persist_result=False)(train_autoencoder)(config, folder)
