"""Tensors on their way to a device, while the device works on others."""

import torch
from torch import Tensor


class Sent:
    """A tensor that was sent to a device and is waited for only when it is taken.

    It goes to a GPU from page-locked memory and on a stream of its own, so that neither this thread nor the GPU waits.
    """

    def __init__(self, tensor: Tensor, device: torch.device | str) -> None:
        device = torch.device(device)
        self._arrived: torch.cuda.Event | None = None
        if device.type != "cuda":
            self._tensor = tensor.to(device)
            return
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            self._tensor = tensor.pin_memory().to(device, non_blocking=True)
            self._arrived = stream.record_event()

    def take(self) -> Tensor:
        """Return the tensor on the device; operations on it wait for its arrival."""
        if self._arrived is not None:
            stream = torch.cuda.current_stream(self._tensor.device)
            stream.wait_event(self._arrived)
            self._tensor.record_stream(stream)  # or its memory might be given away while that stream still reads it
        return self._tensor
