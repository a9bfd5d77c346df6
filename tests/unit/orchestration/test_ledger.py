from __future__ import annotations

from pathlib import Path

from orchestration.ledger import Issue, Ledger


def _issue(ledger: Ledger, position: int, incarnation: int = 0) -> str:
    group_id = f"{position}-{incarnation}"
    ledger.issued(group_id, Issue(position, f"p{position % 3}", position // 3), incarnation)
    return group_id


def _generate(ledger: Ledger, group_id: str) -> None:
    ledger.generated(group_id, worker="w", oldest_version=0, reward_mean=0.5, scored=8)


def test_what_is_neither_trained_nor_dropped_is_open(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ids = [_issue(ledger, position) for position in range(4)]
    _generate(ledger, ids[0])
    _generate(ledger, ids[1])
    ledger.trained(1, 0, 1, [ids[0]])
    ledger.dropped(ids[2], "deadline", step=2)
    assert ledger.open_issues(step=2) == [Issue(1, "p1", 0), Issue(3, "p0", 1)]
    assert ledger.drops_by_cause() == {"deadline": 1}


def test_a_roll_back_abandons_what_happened_behind_the_step_and_nothing_else(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ids = [_issue(ledger, position) for position in range(6)]
    for group_id in ids[:4]:
        _generate(ledger, group_id)
    ledger.trained(1, 0, 1, [ids[0]])
    ledger.dropped(ids[4], "image", step=1)
    ledger.trained(2, 0, 2, [ids[1]])
    ledger.dropped(ids[5], "image", step=3)
    ledger.roll_back(1)
    assert ledger.counts() == {"trained": 1, "dropped": 1, "abandoned": 4}
    again = [_issue(ledger, position, incarnation=1) for position in (1, 2, 3, 5)]
    ledger.trained(2, 1, 2, again)
    audit = ledger.audit()
    assert (audit["prompts_issued"], audit["trained"], audit["trained_twice"], audit["lost"]) == (6, 5, 0, 0)


def test_what_was_dropped_behind_a_checkpoint_is_issued_again_from_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ids = [_issue(ledger, position) for position in range(3)]
    ledger.trained(1, 0, 1, [ids[0]])
    ledger.dropped(ids[1], "deadline", step=2)
    snapshot = ledger.open_issues(step=1)
    assert [issue.position for issue in snapshot] == [1, 2]
    ledger.roll_back(1)
    again = [_issue(ledger, issue.position, incarnation=1) for issue in snapshot]
    ledger.trained(2, 1, 2, again)
    assert ledger.audit()["lost"] == 0


def test_every_resume_gets_an_incarnation_of_its_own(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for expected in range(3):
        incarnation = ledger.next_incarnation()
        assert incarnation == expected
        ledger.roll_back(0)
        _issue(ledger, 0, incarnation)


def test_audit_finds_a_place_that_was_never_issued(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.trained(1, 0, 1, [_issue(ledger, 0), _issue(ledger, 2)])
    assert ledger.audit()["lost"] == 1


def test_audit_finds_a_place_that_was_trained_twice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    first, second = _issue(ledger, 0), _issue(ledger, 0, incarnation=1)
    ledger.trained(1, 0, 1, [first])
    ledger.trained(2, 1, 2, [second])
    assert ledger.audit()["trained_twice"] == 1


def test_audit_finds_a_place_that_was_abandoned_and_never_issued_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    _issue(ledger, 0)
    ledger.roll_back(0)
    ledger.trained(1, 1, 1, [_issue(ledger, 1, incarnation=1)])
    assert ledger.audit()["lost"] == 1


def test_the_ledger_outlives_its_process(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    _issue(ledger, 0)
    ledger.close()
    assert Ledger(tmp_path / "ledger.sqlite").open_issues(step=0) == [Issue(0, "p0", 0)]
