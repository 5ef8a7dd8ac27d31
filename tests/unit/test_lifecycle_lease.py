from __future__ import annotations

import random

import pytest

from jupyter_gpuaas.lifecycle.lease import (
    GRACE_S,
    LOOK_S,
    PACE_S,
    RENEWALS,
    TRY_S,
    Contact,
    ends,
    failed,
    given,
    heard,
    next_try,
)

TTL = 15.0


def known(now_s: float = 100.0) -> Contact:
    return heard(heard(Contact(), now_s, ttl_s=TTL, runs=False), now_s, ttl_s=TTL, runs=True)


def silence(contact: Contact, last_s: float, *, refused: bool = False) -> float:
    """Try as the rules say, without an answer, until the node is lost: when that is known."""
    while not contact.lost:
        last_s = max(next_try(contact, last_s), contact.tried_s)
        given_s = given(contact, last_s)
        contact = failed(contact, last_s, last_s + (0.001 if refused else given_s), given_s)
        assert last_s < 1000
    return contact.tried_s


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("ttl_s", [1.0, 2.0, 15.0, 60.0])
def test_silent_node_is_lost_behind_the_end_of_its_lease_and_not_two_seconds_later(ttl_s: float, refused: bool) -> None:
    contact = heard(Contact(), 100.0, ttl_s=ttl_s, runs=True)
    lost_s = silence(contact, 100.0, refused=refused)
    assert 100.0 + ttl_s + GRACE_S <= lost_s <= 100.0 + ttl_s + 2.0


def test_node_of_which_no_lease_is_known_is_never_lost() -> None:
    contact, now_s = Contact(), 0.0
    for _ in range(100):
        given_s = given(contact, now_s)
        contact = failed(contact, now_s, now_s + given_s, given_s)
        now_s += given_s + PACE_S
    assert not contact.lost


def test_node_without_lease_is_never_lost_and_looked_at_rarely() -> None:
    contact = heard(Contact(), 10.0, ttl_s=0.0, runs=True)
    assert (ends(contact), next_try(contact, 10.0)) == (None, 10.0 + LOOK_S)
    for now_s in range(100, 200, 2):
        contact = failed(contact, now_s, now_s + TRY_S, TRY_S)
    assert not contact.lost


def test_controller_that_stood_still_asks_before_it_gives_a_node_up() -> None:
    contact = known()
    # 1. A try begins.  2. The controller is stopped for a minute.  3. It finds the try too late.
    contact = failed(contact, 105.0, 165.0, given(contact, 105.0))
    assert not contact.lost
    # 4. The next try is refused at once, be it that its connection was given up meanwhile.
    contact = failed(contact, 165.0, 165.01, GRACE_S)
    assert not contact.lost
    # 5. The node answers the one after that.
    assert not heard(contact, 165.5, ttl_s=TTL, runs=False).lost


def test_controller_that_stands_still_between_two_tries_begins_to_count_again() -> None:
    contact = known()
    over_s = ends(contact)
    assert over_s is not None
    contact = failed(contact, over_s, over_s + 0.01, GRACE_S)
    contact = failed(contact, over_s + 60.0, over_s + 60.01, GRACE_S)
    assert not contact.lost
    assert failed(contact, over_s + 60.5, over_s + 60.01 + GRACE_S, GRACE_S).lost


def test_tries_before_the_end_of_the_lease_do_not_count() -> None:
    contact = known()
    contact = failed(contact, 114.9, 115.4, 0.5)
    assert contact.silent_s == 114.9 and contact.doubt_s is None and not contact.lost


def test_answer_ends_the_silence_and_a_lost_node_is_back_when_its_lease_runs() -> None:
    contact = known()
    lost = failed(contact, 115.0, 116.0, GRACE_S)
    assert lost.lost
    answered = heard(lost, 120.0, ttl_s=TTL, runs=False)
    assert answered.lost and next_try(answered, 120.0) == 120.0
    back = heard(answered, 120.1, ttl_s=TTL, runs=True)
    assert not back.lost and back.silent_s is None
    assert next_try(back, 120.1) == 120.1 + TTL / RENEWALS


def test_longer_lease_from_before_a_change_of_the_setting_is_waited_for() -> None:
    contact = heard(known(100.0), 101.0, ttl_s=1.0, runs=True)
    assert ends(contact) == 100.0 + TTL


def test_any_order_of_events_never_gives_a_node_up_whose_lease_may_run() -> None:
    assert sum(play(seed) for seed in range(60)) > 60


def play(seed: int) -> int:
    """The node's side is played along: its lease runs for ``ttl`` from the beat that came back to it last."""
    luck = random.Random(seed)
    ttl_s = luck.choice([1.0, 3.0, 15.0])
    contact, now_s, last_s = Contact(), 50.0, None
    answers = 8
    beat: float | None = None
    node_until_s, losses = 0.0, 0
    late: list[float] = []  # renewals that are still on their way, by the beat that they carry
    for _ in range(200):
        now_s = max(now_s, next_try(contact, last_s)) + luck.choice([0.0, 0.0, 0.0, 0.2, 40.0 * (luck.random() < 0.1)])
        was_lost = contact.lost
        last_s, given_s = now_s, given(contact, now_s)
        if luck.random() < 0.1:
            answers = luck.choice([0, 1, 8, 30])
        if late and luck.random() < 0.3:
            node_until_s = max(node_until_s, late.pop() + ttl_s)
        happens = luck.choices(["answer", "lost request", "lost answer", "late"], [answers, 2, 2, 2])[0]
        took_s = luck.random() * given_s
        if happens == "answer":
            if beat is not None:
                node_until_s = max(node_until_s, beat + ttl_s)
            beat = now_s + took_s * luck.random()  # the node's moment lies within the try
            runs = beat < node_until_s
            now_s += took_s
            contact = heard(contact, now_s, ttl_s=ttl_s, runs=runs)
        else:
            if happens == "lost answer" and beat is not None:
                node_until_s = max(node_until_s, beat + ttl_s)
            if happens == "late" and beat is not None:
                late.append(beat)
            began_s, now_s = now_s, now_s + given_s + luck.choice([0.0, 0.0, 30.0 * (luck.random() < 0.1)])
            contact = failed(contact, began_s, now_s, given_s)
        if contact.lost and not was_lost:
            losses += 1
            # Whatever is still on its way.
            assert max([node_until_s, *(each + ttl_s for each in late)]) <= now_s - GRACE_S
    return losses
