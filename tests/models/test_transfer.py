import torch

from models.transfer import Sent


def test_what_is_sent_is_what_is_taken() -> None:
    tensor = torch.arange(12.0).view(3, 4)
    assert torch.equal(Sent(tensor, "cpu").take(), tensor)
    assert Sent(tensor, torch.device("cpu")).take().device.type == "cpu"
