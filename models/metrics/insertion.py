from typing import ClassVar, Literal

from models.explainers.fill import Fill
from models.metrics.removal import Removal


class Insertion(Removal):
    """Area under the insertion curve (Petsiuk et al. 2018, arXiv:1806.07421).

    ``int_0^1 P(x with only the share s of its features that are strongest) ds`` by trapezoids, with `P` the target's
    probability. A feature's strength is the sum of the signed map over it. In [0, 1]; higher is better.
    """

    family = "faithfulness"
    better = "higher"
    range = (0.0, 1.0)
    shows: ClassVar[bool] = True
    name: Literal["insertion"] = "insertion"
    fill: Fill = "blur"
