from typing import Literal

from torch import Tensor

from models.fits.base import Fit
from models.network import Network
from models.outputs import Axis, Computed, Frame, Output


class Background(Fit):
    """Images of the cohort that stand for what is usual: the explainers that use it compare every image with them."""

    name: Literal["background"] = "background"

    def declare(self, frame: Frame, network: Network, images: int) -> tuple[Output, ...]:
        about = "images that every image is compared with, as the network takes them"
        axes = (Axis(name="background_image", labels=images, long_name="image of the background"),)
        dims = ("background_image", "channel", *frame.space)
        return (Output(name="background", dims=dims, kind="artefact", long_name=about, axes=axes),)

    def compute(self, network: Network, images: Tensor) -> Computed:
        return {"background": images}
