import json
import os
import subprocess
import sys

_SAYS_SOMETHING = """
import logging
from flows import logs

logs.set_up()
logging.getLogger("tasks.shard").info("shard %d committed", 3, extra={"shard": 3})
"""


def said(**environment: str) -> str:
    command = [sys.executable, "-c", _SAYS_SOMETHING]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True).stderr


def test_the_command_line_logs_for_people_or_json_lines() -> None:
    line = json.loads(said(COHORTLENS_LOGS="json"))
    assert line.pop("timestamp")
    assert line == {"level": "INFO", "logger": "tasks.shard", "message": "shard 3 committed", "shard": 3}
    assert said().split(" ", 1)[1] == "shard 3 committed\n"
