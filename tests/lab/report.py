"""A plugin of the pytest in a lab's machine: one line of JSON for each test, to the second serial port."""

from __future__ import annotations

import json

import pytest

PORT = "/dev/ttyS1"
_LONGEST = 3000  # of a traceback; its end says most


def tell(**fields: object) -> None:
    with open(PORT, "w", encoding="utf-8") as port:
        port.write(json.dumps(fields) + "\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        tell(test=report.nodeid, outcome=report.outcome, why=why[-_LONGEST:])


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.outcome != "passed":
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        tell(test=report.nodeid, outcome=report.outcome, why=why[-_LONGEST:])
