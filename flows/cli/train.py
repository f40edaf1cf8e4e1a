"""Verbs that train the networks of the demo."""

from pathlib import Path
from typing import Literal

import click

from flows.cli.command import command
from flows.cli.options import MARKER


@command(epilog="Example: cohortlens train --dims 2 --output out/weights")
@click.option(
    "--network",
    type=click.Choice(["attention_gated", "prototypes", "bcos"]),
    default="attention_gated",
    show_default=True,
    help="The others explain themselves, by prototypes or by weights that the image chooses.",
)
@click.option("--dims", type=click.IntRange(2, 3), default=2, show_default=True, help="2: slices; 3: volumes.")
@click.option("--images", type=click.IntRange(16), default=4000, show_default=True, help="Training images.")
@click.option("--held-out", type=click.IntRange(16), default=1000, show_default=True, help="Images for the AUC.")
@click.option("--epochs", type=click.IntRange(1), default=8, show_default=True)
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=3e-3, show_default=True)
@click.option("--shuffled", is_flag=True, help="Give each training image the label of another.")
@MARKER
@click.option("--output", type=click.Path(path_type=Path), default=Path("out/weights"), show_default=True)
def train(
    network: Literal["attention_gated", "prototypes", "bcos"],
    dims: int,
    images: int,
    held_out: int,
    epochs: int,
    learning_rate: float,
    shuffled: bool,
    marker: bool,
    output: Path,
) -> None:
    """Train a reference network on the demo cohort's generator; write its weights and recipe.

    With shuffled labels there is nothing to learn but the images by heart, with a marker there is a shortcut: two
    networks whose maps should, and two cohorts whose reports must, tell.
    """
    from flows.server import prefect_server

    with prefect_server() as server_url:
        server_url()
        from flows.train import train_reference
        from tasks.demo.training import TrainingConfig

        config = TrainingConfig(
            network=network,
            spatial_dims=dims,
            images=images,
            held_out=held_out,
            epochs=epochs,
            learning_rate=learning_rate,
            shuffled=shuffled,
            marker=marker,
        )
        click.echo(train_reference(config, output))


@command("train-autoencoder", epilog="Example: cohortlens train-autoencoder --output out/weights")
@click.option("--images", type=click.IntRange(16), default=1000, show_default=True, help="Training images.")
@click.option("--held-out", type=click.IntRange(16), default=200, show_default=True, help="Images for the error.")
@click.option("--epochs", type=click.IntRange(1), default=24, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("out/weights"), show_default=True)
def train_autoencoder(images: int, held_out: int, epochs: int, output: Path) -> None:
    """Train the autoencoder of counterfactuals on slices of the demo cohort; write its weights and recipe."""
    from flows.server import prefect_server

    with prefect_server() as server_url:
        server_url()
        from flows.train import train_reference_autoencoder
        from tasks.demo.autoencoder import AutoencoderTraining

        config = AutoencoderTraining(images=images, held_out=held_out, epochs=epochs)
        click.echo(train_reference_autoencoder(config, output))
