"""Every parser of strangers' bytes takes the corpus, and some more; and what a parser does wrong is found and kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsdnode.errors import PeerMisbehaved
from dsdnode.node.shard.sessions import Sessions, StageSession
from dsdnode.speculation.actions import RunChunk
from dsdnode.wire import codec, masks, messages, paths, pieces, replies
from tests.fuzz import campaign
from tests.fuzz.__main__ import LEAST_SHARE, PARSERS
from tests.fuzz.campaign import Ledger
from tests.fuzz.machines import HostileOwner
from tests.fuzz.mutate import Mutator
from tests.fuzz.owners import HostileStages
from tests.fuzz.parser import Case, Parser
from tests.fuzz.run import cases_of, line_of, read_cases, run
from tests.fuzz.seen import run_seen
from tests.protocol.examples import kinds

CORPUS = Path(__file__).parent / "corpus"
NUM_CASES = 150
TIME_LIMIT_S = 10.0


def test_each_parser_has_a_corpus_and_each_corpus_a_parser() -> None:
    assert {path.stem for path in CORPUS.iterdir()} == set(PARSERS)
    assert sum(path.stat().st_size for path in CORPUS.iterdir()) < 64 * 1024


@pytest.mark.parametrize("name", PARSERS)
def test_the_corpus_and_some_more(name: str) -> None:
    parser = PARSERS[name]
    cases = [*read_cases(CORPUS / f"{name}.txt"), *cases_of(parser, 0, NUM_CASES)]
    report = run(parser, cases, TIME_LIMIT_S)
    assert not report.findings, next(iter(report.findings.values())).told
    assert report.num == len(cases) > NUM_CASES
    assert report.num_accepted > 0, "nothing gets through: the examples are out of date"


@pytest.mark.parametrize("name", [one.name for one in PARSERS.values() if one.fits])
def test_most_cases_pass_the_first_check(name: str) -> None:
    parser = PARSERS[name]
    fitting = [case for case in cases_of(parser, 0, NUM_CASES) if parser.fits(case)]  # type: ignore[misc]
    assert len(fitting) >= LEAST_SHARE * NUM_CASES


def test_headers_of_every_kind_are_among_the_cases() -> None:
    tags = set()
    for case in cases_of(PARSERS["header"], 0, 2000):
        try:
            tags.add(type(codec.decode(case).message))
        except PeerMisbehaved:
            continue
    assert tags == set(kinds())


def test_the_same_seed_gives_the_same_cases() -> None:
    for parser in PARSERS.values():
        assert [*cases_of(parser, 7, 20)] == [*cases_of(parser, 7, 20)] != [*cases_of(parser, 8, 20)]


# --- what a parser should not do


def _one_byte(mutator: Mutator) -> Case:
    return (bytes([mutator.below(8)]),)


def _mallory(case: Case) -> None:
    """Fails in her own way at 3, never ends at 5."""
    if case[0] == b"\3":
        raise KeyError(3)
    if case[0] == b"\4":
        raise PeerMisbehaved("4")
    while case[0] == b"\5":
        pass


def _parser(slow: bool = False) -> Parser:
    return Parser("mallory", _one_byte, _mallory, (PeerMisbehaved,), (_mallory,), lambda case: case[0] < b"\7", slow)


def test_an_error_that_is_not_documented_is_kept_and_played_again(tmp_path: Path) -> None:
    cases = [(b"\1",), (b"\3",), (b"\4",), (b"\3",), (b"\7",)]
    report = run(_parser(), cases)
    [finding] = report.findings.values()
    assert finding.case == (b"\3",) and "KeyError" in finding.told
    assert (report.num, report.num_fitting, report.num_accepted) == (5, 4, 2)
    [case] = read_cases(finding.save(tmp_path))
    assert list(run(_parser(), [case]).findings) == list(report.findings)


def test_a_case_that_takes_too_long_is_found_and_left() -> None:
    report = run(_parser(), [(b"\5",), (b"\1",)], limit_s=0.05)
    assert list(report.findings) == ["too long"] and report.num == 2
    assert not run(_parser(slow=True), [(b"\5",)], limit_s=0.05).findings


def test_lines_that_no_case_was_on_are_named() -> None:
    _, seen = run_seen(_parser(), [(b"\1",)])
    assert seen.num_lines >= 5 and len(seen.missing) == 3
    assert seen.num_branches_taken < seen.num_branches


def test_a_campaign_goes_on_where_it_was_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "STRETCH_CASES", 20)
    good = Parser("alice", _one_byte, lambda case: None, (), (_one_byte,), lambda case: case[0] < b"\7")
    for _ in range(2):
        Ledger.read(good, tmp_path).play(tmp_path)
    path = tmp_path / "alice.jsonl"
    path.write_bytes(path.read_bytes() + b'{"seed":2,"num"')  # it was ended here
    ledger = Ledger.read(good, tmp_path)
    assert (ledger.num, ledger.accepted, ledger.next_seed, ledger.findings) == (40, 40, 2, {})
    told = campaign.table([good], tmp_path, lambda parser: "lines 1 of 1")
    assert "40 cases, 0 findings" in told and "lines 1 of 1" in told


def test_what_a_campaign_finds_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "STRETCH_CASES", 20)
    monkeypatch.setattr(campaign, "run", lambda parser, cases: run(parser, cases, 0.05))
    Ledger.read(_parser(slow=True), tmp_path).play(tmp_path)
    [sign] = list(Ledger.read(_parser(slow=True), tmp_path).findings or ())
    assert sign.startswith("KeyError")
    assert "1 findings" in campaign.table([_parser(slow=True)], tmp_path, lambda parser: "")
    assert len(list(tmp_path.glob("mallory-*.txt"))) == 1


def test_a_game_sees_sequences_that_do_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def remove(self: Sessions, session: StageSession) -> bool:
        return self._sessions.pop(session.id, None) is session

    monkeypatch.setattr(Sessions, "remove", remove)
    report = run(PARSERS["shard-host"], cases_of(PARSERS["shard-host"], 0, 10))
    assert "sequences are left" in "".join(finding.told for finding in report.findings.values())


def test_draft_tokens_that_owners_copied_are_judged_and_some_of_them_stand() -> None:
    """Else nothing would be played of what copies them."""
    told = []
    for case in cases_of(PARSERS["owner-machine"], 0, 300):
        game = HostileStages(case[0])
        game.play()
        told.append(game.machine.log.statistics())
    judged, stand = sum(one.copied_judged for one in told), sum(one.copied_accepted for one in told)
    assert judged > stand > 0


def test_blocks_that_wait_for_masks_and_blocks_with_a_past_are_run() -> None:
    runs: list[RunChunk] = []

    class Watched(HostileOwner):
        def _check_draws(self, run: RunChunk) -> None:
            runs.append(run)

    for case in cases_of(PARSERS["stage-machine"], 0, 100):
        Watched(case[0]).play()
    assert any(run.masks for run in runs) and any(run.past is not None and len(run.past.tokens) for run in runs)


def test_cases_are_lines_of_hex(tmp_path: Path) -> None:
    path = tmp_path / "alice.txt"
    path.write_text(f"# why\n{line_of((b'ab', b''))}  # and more\n\n")
    assert read_cases(path) == [(b"ab", b"")]


def test_every_message_kind_is_in_the_wire() -> None:
    """Kinds are found by their module, so that a new one is fuzzed with its first example."""
    named = {
        one
        for module in (messages, replies, paths, pieces, masks)
        for one in vars(module).values()
        if isinstance(one, type)
    }
    assert {one for one in named if issubclass(one, messages.Message)} - {messages.Message} == set(kinds())
