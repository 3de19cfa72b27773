"""The demo says what did not hold: each way in which a run may go wrong is found, and a run that went well has none."""

from __future__ import annotations

from typing import Any

import pytest

from nono.demo import agent, answers, verdict
from nono.demo.stage import VARIABLES, Run
from nono.demo.upstream import Received

KEYS = {name: f"sk-demo-{name}-0123456789abcdef" for name in VARIABLES}
TOKEN = "ab" * 32
THEFTS = list(agent.THEFTS)


def good_run() -> dict[str, Any]:
    """The parts of a run in which everything held."""
    asked = [
        {"asked": name, "held": TOKEN, "status": 200, "text": answers.TEXT, "pieces": 10, "ms": [5.0, 90.0]}
        for name in VARIABLES
    ]
    tried = [{"tried": theft, "loot": "", "errno": 13, "says": "Permission denied"} for theft in THEFTS]
    received = [
        Received(each.name, each.key_format.format(KEYS[each.name]), True, f"{each.header}: {KEYS[each.name]}", b"{}")
        for each in answers.SERVICES
    ]
    return {
        "status": 0,
        "lines": (*asked, *tried),
        "stderr": "nono  wall  namespaces\n",
        "received": tuple(received),
        "arrived": frozenset(),
        "duration_s": 0.5,
    }


def failures(parts: dict[str, Any], audit_log: tuple[str, ...] = ("{}",), token_status: int = 401) -> list[str]:
    return verdict.failures(Run(**parts), THEFTS, KEYS, audit_log, token_status)


def test_nothing_is_found_where_everything_held() -> None:
    assert failures(good_run()) == []


def with_line(kind: str, name: str, **fields: object) -> dict[str, Any]:
    parts = good_run()
    parts["lines"] = tuple({**line, **fields} if line.get(kind) == name else line for line in parts["lines"])
    return parts


@pytest.mark.parametrize("theft", THEFTS)
def test_loot_is_a_failure(theft: str) -> None:
    (sentence,) = failures(with_line("tried", theft, loot="anything"))
    assert "could" in sentence


@pytest.mark.parametrize("way", ["tcp", "udp", "unix_socket"])
def test_an_arrival_is_a_failure_whatever_the_thief_says(way: str) -> None:
    (sentence,) = failures({**good_run(), "arrived": frozenset([way])})
    assert "could" in sentence


def test_a_theft_that_was_never_tried_is_a_failure() -> None:
    parts = good_run()
    parts["lines"] = tuple(line for line in parts["lines"] if line.get("tried") != "udp")
    assert len(failures(parts)) == 1


def test_a_key_in_the_agents_hands_is_a_failure() -> None:
    assert "The agent held the real key of openai." in failures(with_line("asked", "openai", held=KEYS["openai"]))


def test_an_answer_that_is_not_whole_is_a_failure() -> None:
    assert len(failures(with_line("asked", "gemini", text=answers.TEXT[:-1]))) == 1


@pytest.mark.parametrize("field", ["head", "body"])
def test_a_token_that_went_up_is_a_failure(field: str) -> None:
    parts = good_run()
    leaked = {"head": f"x: {TOKEN}"} if field == "head" else {"body": TOKEN.encode()}
    parts["received"] = (*parts["received"], parts["received"][0]._replace(**leaked))
    assert failures(parts) == ["The agent's token was sent on to openai."]


def test_a_key_that_went_to_another_service_is_a_failure() -> None:
    parts = good_run()
    parts["received"] = (*parts["received"], parts["received"][0]._replace(head=KEYS["gemini"]))
    assert failures(parts) == ["The key of gemini was sent to openai."]


def test_a_service_that_never_got_its_key_is_a_failure() -> None:
    parts = good_run()
    parts["received"] = parts["received"][1:]
    assert failures(parts) == ["openai never received its key."]


def test_a_key_in_what_nono_says_or_writes_is_a_failure() -> None:
    assert len(failures({**good_run(), "stderr": KEYS["openai"]})) == 1
    assert len(failures(good_run(), audit_log=("{}", KEYS["openai"]))) == 1


def test_no_audit_is_a_failure() -> None:
    assert len(failures(good_run(), audit_log=())) == 1


def test_a_token_that_works_elsewhere_is_a_failure() -> None:
    assert len(failures(good_run(), token_status=200)) == 1


def test_a_run_that_failed_is_a_failure_and_says_why() -> None:
    found = failures({**good_run(), "status": 1, "lines": (), "received": (), "stderr": "nono: no Landlock"})
    assert "no Landlock" in found[0]


def test_the_verdict_says_how_many() -> None:
    assert "NOT" not in verdict.closing([], 1.0, 3)
    assert "2 defences did NOT hold" in verdict.closing(["One.", "Two."], 1.0, 3)
