"""Registers what lies in this folder with a Prefect server, again and again: deployments, queues, blocks, automations.

Without ``PREFECT_API_URL``, with that of `make up`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import urlsplit

import click

from flows.yaml import read_yaml
from infra.local.settings import environment, shared

_FOLDER = Path(__file__).resolve().parent
_RUNS_A_QUEUE = 1
_WEBHOOK = "cohortlens-alerts"
_REMEDY = "Set ALERT_WEBHOOK or ALERT_BLOCK in infra/settings.env or the environment, and `make deploy` again."


@click.command()
def main() -> None:
    """Register the deployments and automations of this folder."""
    os.environ |= shared() if os.environ.get("PREFECT_API_URL") else environment()
    pool = os.environ["WORK_POOL"]
    content = without_unset(_read("prefect.yaml"))
    silent = apply_automations()  # before the schedules: a run that fails meanwhile is told of
    _prefect("work-pool", "create", pool, "--type", os.environ["WORK_POOL_TYPE"], "--overwrite")
    with NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(content, file)  # JSON is YAML
        file.flush()
        _prefect("--no-prompt", "deploy", "--all", "--prefect-file", file.name)
    for queue in sorted({deployment["work_pool"]["work_queue_name"] for deployment in content["deployments"]}):
        _prefect("work-queue", "set-concurrency-limit", queue, str(_RUNS_A_QUEUE), "--pool", pool)
    if silent:
        warning = f"NOBODY IS TOLD: {', '.join(silent)}.\n{_REMEDY}"
        click.secho(warning, err=True, bold=True, fg="yellow")


def without_unset(content: Any) -> Any:
    """Leave out what a variable alone would say that is not set; Prefect would make it an empty text."""
    if isinstance(content, list):
        return [without_unset(value) for value in content]
    if not isinstance(content, dict):
        return content
    return {key: without_unset(value) for key, value in content.items() if not _is_unset(value)}


def _is_unset(value: Any) -> bool:
    found = re.fullmatch(r"{{ \$(\w+) }}", value) if isinstance(value, str) else None
    return found is not None and not os.environ.get(found[1])


def _prefect(*arguments: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments], capture_output=True, text=True, check=False, cwd=_FOLDER.parent
    )
    if ended.returncode:
        raise click.ClickException(f"prefect {' '.join(arguments)}: {ended.stdout}{ended.stderr}")


def apply_automations() -> list[str]:
    """Register the automations, and return the names of those that nobody is told by: they are switched off."""
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore
    from prefect.utilities.templating import apply_values

    content: Any = apply_values(_read("automations.yaml"), dict(os.environ), remove_notset=False)
    silent = []
    with get_client(sync_client=True) as client:
        notify = _notifications(content["notification"])
        for declared in content["automations"]:
            wanted = {"enabled": True, "description": ""} | declared  # an update sends what was set, no defaults
            wanted["trigger"]["within"] = float(wanted["trigger"].get("within", 0))
            tells = wanted.pop("notify", False)
            if tells and not notify:
                silent.append(wanted["name"])
                wanted |= {"enabled": False, "description": f"Switched off, since it would tell nobody. {_REMEDY}"}
            actions = [*wanted.get("actions", ()), *(notify if tells else ())]
            automation = AutomationCore.model_validate(wanted | {"actions": actions or [{"type": "do-nothing"}]})
            there = client.read_automations_by_name(automation.name)
            if there:
                client.update_automation(there[0].id, automation)
            else:
                client.create_automation(automation)
            state = "" if automation.enabled else ", SWITCHED OFF: it would tell nobody"
            click.echo(f"automation {'updated' if there else 'made'}: {automation.name}{state}")
    return silent


def _notifications(text: dict[str, str]) -> list[dict[str, Any]]:
    """Make the actions that tell somebody: a webhook, if there is a URL, and a block, if one is named."""
    from prefect.blocks.abstract import NotificationBlock
    from prefect.blocks.core import Block
    from prefect.blocks.webhook import Webhook

    actions: list[dict[str, Any]] = []
    if url := os.environ.get("ALERT_WEBHOOK"):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.ClickException("ALERT_WEBHOOK is no http:// or https:// URL, so that nobody would be told")
        hook = Webhook(url=url)
        hook.save(_WEBHOOK, overwrite=True)
        payload = json.dumps({"text": text["body"]}, ensure_ascii=False)
        actions.append({"type": "call-webhook", "block_document_id": str(hook._block_document_id), "payload": payload})
    if name := os.environ.get("ALERT_BLOCK"):
        try:
            block: Any = Block.load(name)  # a coroutine only where an event loop runs
        except ValueError as error:
            raise click.ClickException(f"ALERT_BLOCK: the server has no block {name}: make it under Blocks") from error
        if not isinstance(block, NotificationBlock):
            raise click.ClickException(f"ALERT_BLOCK: {name} is no block that notifies, such as slack-webhook/ops")
        actions.append({"type": "send-notification", "block_document_id": str(block._block_document_id), **text})
    return actions


def _read(name: str) -> Any:
    return read_yaml((_FOLDER / name).read_bytes(), name)


if __name__ == "__main__":
    main()
