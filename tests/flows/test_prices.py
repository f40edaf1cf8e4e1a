import pytest

from flows.prices import Prices
from tasks.telemetry import Reading, Spent, spent


def reading(process: str, moment: float, puts: int, gpus: int = 0) -> Reading:
    return Reading(process=process, moment=moment, gpus=gpus, cores=0 if gpus else 2, puts=puts, gets=10 * puts)


def test_what_processes_spent_is_between_their_first_and_last_readings() -> None:
    """A process may work on two groups at once, one after the other, or on one alone; readings come in any order."""
    workers = [
        reading("a", 130, 9),
        reading("a", 100, 1),
        reading("b", 5, 0, gpus=1),
        reading("a", 110, 4),
        reading("b", 65, 7, gpus=1),
    ]
    found = spent(workers, [reading("flow", 0, 2), reading("flow", 1000, 3)])
    assert found == Spent(gpu_seconds=60, cpu_seconds=60, puts=8 + 7 + 1, gets=160)


def test_only_what_has_a_price_has_a_cost() -> None:
    took = Spent(gpu_seconds=7200, cpu_seconds=3600, puts=2000, gets=500)
    assert Prices().costs(took, 10**9) == {}
    prices = Prices(currency="EUR", gpu_hour=1.5, thousand_puts=0.005, gb_month=0.02)
    assert prices.costs(took, 5 * 10**9) == {
        "GPUs": "3 EUR",
        "PUT requests": "0.01 EUR",
        "storage, a month": "0.1 EUR",
    }
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Prices(cpu_hour=-1)
