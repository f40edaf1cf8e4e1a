"""The automations as a Prefect server has them after `make deploy`: switched on if somebody is told, off if not."""

import click
import pytest
from click.testing import CliRunner
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import Automation

import deployments.__main__ as deploying

NAMES = {
    "A run failed or crashed",
    "More was quarantined than is allowed",
    "The evidence is worse than that of the run before",
}
ACTS_ITSELF = "A run is not heard of any more"


@pytest.fixture(autouse=True)
def variables(prefect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTBEAT_MISSED_SECONDS", "90")
    for name in ("ALERT_WEBHOOK", "ALERT_BLOCK"):
        monkeypatch.delenv(name, raising=False)


def registered() -> dict[str, Automation]:
    with get_client(sync_client=True) as client:
        found = [client.read_automations_by_name(name) for name in (*NAMES, ACTS_ITSELF)]
    assert [len(one) for one in found] == [1] * 4  # registering again makes no second one
    return {one[0].name: one[0] for one in found}


def test_without_an_address_alarms_are_off_and_say_why_and_with_one_they_are_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert set(deploying.apply_automations()) == NAMES
    found = registered()
    assert {name for name, one in found.items() if not one.enabled} == NAMES
    assert all("would tell nobody" in found[name].description for name in NAMES)
    assert all("ALERT_WEBHOOK" in found[name].description for name in NAMES)
    monkeypatch.setenv("ALERT_WEBHOOK", "https://alerts.example.org/hook")
    assert deploying.apply_automations() == []
    found = registered()
    assert all(one.enabled for one in found.values())
    assert {one.actions[0].type for name, one in found.items() if name in NAMES} == {"call-webhook"}
    assert not any("nobody" in one.description for one in found.values())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ALERT_WEBHOOK", "hooks.example.org/secret", "no http:// or https:// URL"),
        ("ALERT_WEBHOOK", "ftp://hooks.example.org/secret", "no http:// or https:// URL"),
        ("ALERT_BLOCK", "slack-webhook/nowhere", "no block slack-webhook/nowhere"),
        ("ALERT_BLOCK", "secret/no-notifier", "no block that notifies"),
    ],
)
def test_an_address_that_tells_nobody_is_refused(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.blocks.system import Secret

    Secret(value="of nobody").save("no-notifier", overwrite=True)
    monkeypatch.setenv(name, value)
    with pytest.raises(click.ClickException, match=message) as error:
        deploying.apply_automations()
    assert "secret" not in error.value.message or "ALERT_BLOCK" in error.value.message


@pytest.mark.parametrize("silent", [[], ["A run failed or crashed"]])
def test_alarms_come_before_schedules_and_silence_is_told_last(
    silent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(deploying, "apply_automations", lambda: done.append("alarms") or silent)
    monkeypatch.setattr(deploying, "_prefect", lambda *arguments: done.append(" ".join(arguments[:2])))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    result = CliRunner().invoke(deploying.main)
    assert result.exit_code == 0, result.output
    assert done[0] == "alarms" and "--no-prompt deploy" in done
    assert ("NOBODY IS TOLD: A run failed or crashed." in result.stderr) == bool(silent)
