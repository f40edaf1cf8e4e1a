from typing import ClassVar, Literal

from models.metrics.removal import Removal


class Deletion(Removal):
    """Area under the deletion curve (Petsiuk et al. 2018, arXiv:1806.07421; by patches: Samek et al. 2017,
    arXiv:1509.06321).

    ``int_0^1 P(x without the share s of its features that are strongest) ds`` by trapezoids, with `P` the target's
    probability. A feature's strength is the sum of the signed map over it. In [0, 1]; lower is better.
    """

    family = "faithfulness"
    better = "lower"
    range = (0.0, 1.0)
    shows: ClassVar[bool] = False
    name: Literal["deletion"] = "deletion"
