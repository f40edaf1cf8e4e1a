"""Array transforms that MONAI lacks, which a configuration may name beside those of ``monai.transforms``."""

from models.transforms.channels import MeanOverChannels, SelectChannels

__all__ = ["MeanOverChannels", "SelectChannels"]
