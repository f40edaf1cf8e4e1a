import json
import logging
import os
import subprocess
import sys
from io import StringIO

from flows.logs import set_up_prefect
from models.errors import ConfigurationError

_SAYS_SOMETHING = """
import logging
from flows import logs

logs.set_up()
logging.getLogger("tasks.work.explain").info("shard %d committed", 3, extra={"shard": 3})
"""


def said(**environment: str) -> str:
    command = [sys.executable, "-c", _SAYS_SOMETHING]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True).stderr


def test_the_command_line_logs_for_people_or_json_lines() -> None:
    line = json.loads(said(COHORTLENS_LOGS="json"))
    assert line.pop("timestamp")
    assert line == {"level": "INFO", "logger": "tasks.work.explain", "message": "shard 3 committed", "shard": 3}
    assert said().split(" ", 1)[1] == "shard 3 committed\n"


def test_what_a_user_can_mend_is_told_without_a_traceback() -> None:
    set_up_prefect()
    logger, stream = logging.getLogger("prefect.flow_runs"), StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        for error in (ConfigurationError("a wrong field"), RuntimeError("a defect")):
            logger.error("run failed: %r", error, exc_info=error)
    finally:
        logger.removeHandler(handler)
    mendable, defect = stream.getvalue().split("run failed: ")[1:]
    assert mendable == "ConfigurationError('a wrong field')\n"
    assert "RuntimeError: a defect" in defect.splitlines()
