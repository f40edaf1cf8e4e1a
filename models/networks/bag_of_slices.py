"""A volume as a bag of its slices, for multiple instance learning."""

from typing import Literal

from monai.networks.nets import MILModel, resnet18
from torch import Tensor, nn


class BagOfSlices(nn.Module):
    """MONAI's `MILModel` over the slices of a volume, each read by a 2-D ResNet-18.

    Parameters
    ----------
    in_channels
        Channels of the volume.
    num_classes
        Length of the logits.
    mil_mode
        How the slices' features are pooled; the modes with `att` weigh them by attention.

    Notes
    -----
    Input ``(batch, in_channels, z, y, x)``, output logits ``(batch, num_classes)``.
    """

    def __init__(
        self, in_channels: int, num_classes: int, mil_mode: Literal["mean", "max", "att", "att_trans"] = "att"
    ) -> None:
        super().__init__()
        backbone = resnet18(spatial_dims=2, n_input_channels=in_channels, feed_forward=False)
        self.mil = MILModel(num_classes, mil_mode, pretrained=False, backbone=backbone, backbone_num_features=512)

    def forward(self, volumes: Tensor) -> Tensor:
        logits: Tensor = self.mil(volumes.transpose(1, 2))
        return logits
