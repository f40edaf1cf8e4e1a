"""The cost of a run, at the prices that the configuration names."""

from pydantic import BaseModel, ConfigDict, Field

from tasks.telemetry import Spent


class Prices(BaseModel):
    """Prices of all that a run takes. A cost is shown only where there is a price."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    currency: str = Field("USD", description="What the prices are in")
    gpu_hour: float | None = Field(None, ge=0, description="Of one GPU, with the machine around it")
    cpu_hour: float | None = Field(None, ge=0, description="Of one core")
    thousand_puts: float | None = Field(None, ge=0, description="Of 1,000 PUT, COPY and LIST requests")
    thousand_gets: float | None = Field(None, ge=0, description="Of 1,000 GET and HEAD requests")
    gb_month: float | None = Field(None, ge=0, description="Of 10⁹ bytes stored for a month")

    def costs(self, spent: Spent, bytes_stored: int) -> dict[str, str]:
        """Reckon what was paid, by what it was paid for; storage by the month."""
        priced = {
            "GPUs": (self.gpu_hour, spent.gpu_seconds / 3600),
            "CPUs": (self.cpu_hour, spent.cpu_seconds / 3600),
            "PUT requests": (self.thousand_puts, spent.puts / 1000),
            "GET requests": (self.thousand_gets, spent.gets / 1000),
            "storage, a month": (self.gb_month, bytes_stored / 1e9),
        }
        return {
            what: f"{price * much:.4g} {self.currency}" for what, (price, much) in priced.items() if price is not None
        }
