"""The tables are closed: every state can be reached, every event names a state, the coupling names an event."""

from __future__ import annotations

from nono.proxy import state


def reachable(table: dict[str, dict[str, str]], start: str) -> set[str]:
    found, todo = {start}, [start]
    while todo:
        for following in table[todo.pop()].values():
            if following not in found:
                found.add(following)
                todo.append(following)
    return found


def test_every_state_is_reached_and_no_other() -> None:
    assert reachable(state.CLIENT, state.IDLE) == set(state.CLIENT)
    assert reachable(state.UPSTREAM, state.IDLE) == set(state.UPSTREAM)


def test_coupled_pairs_lead_on() -> None:
    for (client, upstream), event in state.COUPLED.items():
        assert event in state.CLIENT[client]
        assert upstream in state.UPSTREAM


def test_a_retry_is_possible_only_before_the_first_byte() -> None:
    assert [s for s, events in state.UPSTREAM.items() if state.BOUND in events] == [state.IDLE]
    assert state.UPSTREAM[state.BODY][state.LOST] == state.IDLE
