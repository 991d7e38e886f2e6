"""What pgBackRest says, as it was printed by version 2.55, and what follows from it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from infra.backup import checks, recovery_target, repository, restore, serve, verify
from infra.backup.recovery_target import BadTimeError
from infra.backup.repository import Archive, Backup, Info, RepositoryError, Segment
from infra.ops.outcome import RefusedError

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
CLUSTER, OTHER = 7713516772883906579, 7713514261210038291
AT = time(2, 30)


def backup(kind: str, hours_ago: float, **values: Any) -> Backup:
    made = NOW - timedelta(hours=hours_ago)
    given: dict[str, Any] = {"first": segment(4), "last": segment(4), "system_id": CLUSTER} | values
    return Backup(
        label=f"{made:%Y%m%d-%H%M%S}{kind[0].upper()}",
        kind=kind,
        started=made - timedelta(minutes=5),
        stopped=made,
        database_bytes=given.pop("database_bytes", 1 << 30),
        repository_bytes=1 << 20,
        archive_id="17-1",
        has_errors=given.pop("has_errors", False),
        **given,
    )


def segment(number: int, timeline: int = 1) -> str:
    return Segment(timeline, number, NOW, 0).name


def archive(*numbers: int, timeline: int = 1, minutes_ago: float = 10) -> Archive:
    at = NOW - timedelta(minutes=minutes_ago)
    return Archive(tuple(Segment(timeline, number, at, 1) for number in numbers))


STANZA = {
    "archive": [{"database": {"id": 1, "repo-key": 1}, "id": "17-1", "max": None, "min": None}],
    "backup": [
        {
            "archive": {"start": "000000010000000000000004", "stop": "000000010000000000000005"},
            "database": {"id": 1, "repo-key": 1},
            "error": False,
            "info": {"delta": 9, "repository": {"delta": 3782400}, "size": 31278366},
            "label": "20261129-085530F",
            "timestamp": {"start": 1795942530, "stop": 1795942532},
            "type": "full",
        }
    ],
    "db": [
        {"id": 1, "repo-key": 1, "system-id": OTHER, "version": "17"},
        {"id": 2, "repo-key": 1, "system-id": CLUSTER, "version": "17"},
    ],
    "name": "sluice",
    "repo": [{"cipher": "aes-256-cbc", "key": 1, "status": {"code": 0, "message": "ok"}}],
}


def test_info_has_the_backups_of_each_cluster() -> None:
    found = repository.parse_info([STANZA])
    (one,) = found.backups
    assert (one.label, one.system_id, one.archive_id) == ("20261129-085530F", OTHER, "17-1")
    assert (one.database_bytes, one.repository_bytes, one.timeline) == (31278366, 3782400, 1)
    assert one.stopped == datetime(2026, 11, 29, 8, 55, 32, tzinfo=UTC)
    # The newest cluster is the one that is archived; it has no backup yet.
    assert (found.system_id, found.archive_id, found.current) == (CLUSTER, "17-2", ())


def test_a_repository_that_cannot_be_read_is_an_error_and_an_empty_one_is_not() -> None:
    code = {"code": 99, "message": "[CryptoError] unable to flush\n  HINT: is the key right?"}
    broken = {"name": "sluice", "repo": [{"status": code}]}
    with pytest.raises(RepositoryError, match="cannot be read with this key"):
        repository.parse_info([broken])
    empty = {"name": "sluice", "repo": [{"status": {"code": 1, "message": "missing stanza path"}}]}
    assert repository.parse_info([empty]) == repository.parse_info([]) == Info()


def test_an_error_is_one_line_without_what_was_said_around_it() -> None:
    printed = (
        "P00   WARN: this\nP00  ERROR: [082]: WAL segment was not archived before the timeout\n"
        "            HINT: check the archive_command.\nP00   INFO: that\n"
    )
    assert repository.error_line(printed, 82) == (
        "WAL segment was not archived before the timeout HINT: check the archive_command."
    )
    assert repository.error_line("", 7) == "exit code 7"


def test_the_archive_has_segments_and_histories_and_nothing_else() -> None:
    sha = "0" * 40
    listed = {
        f"0000000100000000/0000000100000000000000FF-{sha}.zst": {"size": 7, "time": 1795942530},
        f"0000000100000001/000000010000000100000000-{sha}.zst": {"size": 8, "time": 1795942531},
        f"0000000100000001/000000010000000100000001.partial-{sha}.zst": {"size": 9, "time": 1},
        "0000000100000000/0000000100000000000000FF.00000028.backup": {"size": 1, "time": 1},
        "00000002.history": {"size": 1, "time": 1},
        "archive.info": {"size": 1, "time": 1},
    }
    found = repository.parse_archive(listed)
    assert [one.number for one in found.segments] == [255, 256]
    assert [one.name for one in found.segments] == [
        "0000000100000000000000FF",
        "000000010000000100000000",
    ]
    assert (found.bytes, found.timeline, found.histories) == (15, 2, (2,))


LOST = (segment(6), segment(7))


@pytest.mark.parametrize(
    ("found", "missing"),
    [
        (archive(4, 5, 6), ()),
        (archive(4, 6), (segment(5),)),
        # The first of the backup itself.
        (archive(5, 6), (segment(4),)),
        # Before the backup nothing is needed.
        (archive(1, 4, 5), ()),
        # What comes behind a gap came just now: the gap may be on its way.
        (archive(4, 6, minutes_ago=1), ()),
        (Archive((*archive(4, 5).segments, *archive(5, 6, timeline=2).segments)), ()),
        (Archive((*archive(4, 5).segments, *archive(5, 7, timeline=2).segments)), (segment(6, 2),)),
        # A failover: the new timeline begins behind what the old one has finished.
        (Archive((*archive(4, 5).segments, *archive(6, timeline=2).segments)), ()),
        (Archive((*archive(4, 5).segments, *archive(8, timeline=2).segments)), LOST),
        (Archive(), ()),
    ],
)
def test_segments_that_are_missing_are_named(found: Archive, missing: tuple[str, ...]) -> None:
    assert repository.gaps(found, segment(4), NOW) == missing


def test_a_gap_is_a_hole_in_time_until_the_next_backup() -> None:
    old, new = backup("full", 9), backup("full", 1, first=segment(7), last=segment(7))
    gone = NOW - timedelta(minutes=10)
    assert repository.holes([old, new], archive(4, 5, 7), NOW) == ((gone, new.stopped),)
    assert repository.holes([old], archive(4, 5, 7, 9), NOW) == ((gone, None),)
    assert repository.holes([old], archive(4, 5), NOW) == repository.holes([], Archive(), NOW) == ()


@pytest.mark.parametrize(
    ("backups", "reason", "kind"),
    [
        ([], "", "full"),
        ([backup("full", 5)], "", ""),
        # The time of day has passed since: today's is due, also when the machine was off.
        ([backup("full", 10)], "", "diff"),
        ([backup("full", 6 * 24 - 1)], "", "diff"),
        ([backup("full", 7 * 24 + 10)], "", "full"),
        ([backup("full", 7 * 24 + 10), backup("diff", 1)], "", ""),
        ([backup("diff", 1)], "", "full"),
        ([backup("full", 1)], "segment 5 is missing", "full"),
    ],
)
def test_the_backup_that_is_due(backups: list[Backup], reason: str, kind: str) -> None:
    found = serve.due(backups, NOW, at=AT, full_every_days=7, reason_for_full=reason)
    assert found == kind


def test_a_new_timeline_a_gap_or_a_bad_page_ask_for_a_full_backup() -> None:
    info = Info((backup("full", 1),), CLUSTER, "17-1")
    assert serve.broken(info, archive(4, 5), NOW) == ""
    assert "timeline 2" in serve.broken(info, Archive(archive(4).segments, (2,)), NOW)
    assert segment(5) in serve.broken(info, archive(4, 6), NOW)
    bad = Info((backup("full", 1, has_errors=True),), CLUSTER, "17-1")
    assert "wrong checksum" in serve.broken(bad, archive(4, 5), NOW)


@pytest.mark.parametrize(
    ("first", "reason"), [(5, ""), (4, "timeline 2 has begun since"), (None, "")]
)
def test_a_failover_asks_for_none_unless_it_goes_back_behind_the_backup(
    first: int | None, reason: str
) -> None:
    info = Info((backup("full", 1),), CLUSTER, "17-1")
    later = archive(first, timeline=2).segments if first else ()
    found = Archive((*archive(4).segments, *later), (2,))
    assert serve.broken(info, found, NOW, replicated=True) == reason


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-24 10:00:00", "24.11.2026", "10:00+00"])
def test_what_is_no_moment_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(BadTimeError, match=r"write 2026-11-24 10:00:00\+00"):
        recovery_target.moment(text)


@pytest.mark.parametrize(
    "text", ["2026-11-24 10:00:00+00", "2026-11-24T10:00:00Z", "2026-11-24 19:00:00.000+09:00"]
)
def test_a_moment_is_read_with_its_time_zone(text: str) -> None:
    assert recovery_target.moment(text) == datetime(2026, 11, 24, 10, tzinfo=UTC)


def test_the_newest_backup_that_was_finished_by_then_is_chosen() -> None:
    old, new = backup("full", 48), backup("diff", 24)
    info = Info((backup("full", 99, system_id=OTHER), old, new), CLUSTER, "17-1")
    held = archive(4, 5)
    assert recovery_target.choose(info, held, CLUSTER, None) == new
    assert recovery_target.choose(info, held, CLUSTER, new.stopped) == new
    assert recovery_target.choose(info, held, CLUSTER, new.stopped - timedelta(seconds=1)) == old
    with pytest.raises(RefusedError, match="earliest moment that a restore can go back to"):
        recovery_target.choose(info, held, CLUSTER, old.stopped - timedelta(seconds=1))


def test_a_backup_that_the_timeline_has_left_behind_is_passed_over() -> None:
    # Timeline 2 goes back to segment 6; the newer backup of timeline 1 ended in 9.
    old, new = backup("full", 48), backup("full", 24, first=segment(9), last=segment(9))
    info = Info((old, new), CLUSTER, "17-1")
    swapped = Archive(archive(4, 5, 6, 7, 8, 9).segments, (2,), 2, {1: 6})
    assert recovery_target.choose(info, swapped, CLUSTER, None) == old
    # As long as the history is all that there is of it, and where only its segments are.
    seen = Archive((*archive(4, 5, 6, 7, 8, 9).segments, *archive(6, timeline=2).segments))
    assert recovery_target.choose(info, seen, CLUSTER, None) == old
    assert recovery_target.choose(info, replace(swapped, target=1, ends={}), CLUSTER, None) == new
    with pytest.raises(RefusedError, match=r"no backup leads to timeline 2.*TIMELINE=1"):
        recovery_target.choose(Info((new,), CLUSTER, "17-1"), swapped, CLUSTER, None)
    # What is missing of the way that was left is no gap.
    left = Archive(archive(4, 5, 7, 9).segments, (2,), 2, {1: 6})
    assert repository.gaps(left, segment(4), NOW) == ()


@pytest.mark.parametrize("text", ["latest", "0", "01", "1 -c x", "x" * 99])
def test_a_timeline_is_a_number(text: str) -> None:
    assert (recovery_target.require_timeline(""), recovery_target.require_timeline("12")) == (0, 12)
    with pytest.raises(RefusedError, match="is no timeline; write its number"):
        recovery_target.require_timeline(text)


def test_pgbackrest_is_told_of_another_timeline_and_its_settings_do_not_stay(
    tmp_path: Path,
) -> None:
    assert restore._recovery("") == ("--type=none",)
    assert restore._recovery("1") == ("--type=default", "--target-timeline=1")
    file = tmp_path / "postgresql.auto.conf"
    restore._forget_recovery(file)
    file.write_text(
        "work_mem = '8MB'\n\n# Recovery settings generated by pgBackRest restore on 2026-11-29\n"
        "restore_command = 'x'\nrecovery_target_timeline = '1'\n"
    )
    for _ in range(2):
        restore._forget_recovery(file)
        assert file.read_text() == "work_mem = '8MB'\n"


def test_a_gap_before_the_second_branch_is_named() -> None:
    # Timeline 1 went on to 20 after 2 had left it; 3 left 2 at 15, of which 11 to 14 are missing.
    segments = (
        *archive(*range(4, 21)).segments,
        *archive(8, 9, 10, timeline=2).segments,
        *archive(15, 16, timeline=3).segments,
    )
    text = "1\t0/80000A0\tno recovery target specified\n\n2\t0/F000000\tbefore 2026-11-29\n"
    ends = repository.parse_history(text)
    assert ends == {1: 8, 2: 15}
    missing = repository.gaps(Archive(segments, (2, 3), 3, ends), segment(4), NOW)
    assert missing == tuple(segment(number, 2) for number in range(11, 15))
    # From timeline 1 instead there is none.
    assert repository.gaps(Archive(segments, (2, 3), 3, {1: 15}), segment(4), NOW) == ()


def test_the_way_to_a_timeline_is_read_from_its_history(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def ask(*arguments: str) -> str:
        asked.append(arguments)
        if arguments[0] == "repo-get":
            return "1\t0/6000000\tx\n"
        return '{"00000002.history": {"size": 1, "time": 1}}'

    monkeypatch.setattr(repository, "ask", ask)
    for _ in range(2):
        found = repository.archive("17-9")
        assert (found.target, found.ends) == (2, {1: 6})
    assert repository.archive("17-9", 1).ends == {}
    # It never changes.
    assert [one[0] for one in asked].count("repo-get") == 1


@pytest.mark.parametrize(
    ("running", "asked", "expected"),
    [
        (CLUSTER, "", CLUSTER),
        (None, "", CLUSTER),
        (CLUSTER, str(OTHER), OTHER),
        (1, "", "another cluster's"),
        (CLUSTER, "1", "CLUSTER=1 is not in the repository"),
        (CLUSTER, "x", "CLUSTER=x is not in the repository"),
    ],
)
def test_another_cluster_is_restored_only_where_it_is_asked_for(
    running: int | None, asked: str, expected: int | str
) -> None:
    both = (backup("full", 9, system_id=OTHER), backup("full", 1))
    info = Info(both, CLUSTER, "17-2")
    if isinstance(expected, int):
        assert recovery_target.require_cluster(info, running, asked) == expected
        return
    with pytest.raises(RefusedError, match=expected):
        recovery_target.require_cluster(info, running, asked)


def test_an_empty_repository_is_said() -> None:
    with pytest.raises(RefusedError, match="no backup in the repository"):
        recovery_target.require_cluster(Info(), None, "")


def test_a_moment_after_the_log_is_refused_and_one_before_a_gap_is_not() -> None:
    until = NOW - timedelta(minutes=10)
    recovery_target.require_window(archive(4), None)
    recovery_target.require_window(archive(4), until)
    with pytest.raises(RefusedError, match="when the last segment"):
        recovery_target.require_window(archive(4), until + timedelta(seconds=2))
    one = backup("full", 1)
    broken = archive(4, 6)
    recovery_target.require_no_gap(broken, one, until, NOW)
    for to in (None, until + timedelta(seconds=1)):
        with pytest.raises(RefusedError, match=f"{segment(5)}.*TO can be"):
            recovery_target.require_no_gap(broken, one, to, NOW)


def test_a_restored_cluster_is_judged_by_its_own_archive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    both = (backup("full", 9, system_id=OTHER), backup("full", 1))
    both = (both[0], replace(both[1], archive_id="17-2"))
    found = {"17-1": archive(4, timeline=3), "17-2": archive(4, timeline=1)}
    monkeypatch.setattr(restore, "TARGET", tmp_path)
    monkeypatch.setattr(repository, "system_id", lambda _: OTHER)
    monkeypatch.setattr(repository, "info", lambda: Info(both, CLUSTER, "17-2"))
    monkeypatch.setattr(repository, "archive", found.__getitem__)
    for timeline in (2, 4):
        record: dict[str, Any] = {"faults": [], "system_id": str(OTHER), "timeline": timeline}
        (tmp_path / restore.RECORD_NAME).write_text(json.dumps(record))
        if timeline == 4:
            restore.require_swappable()
        else:
            with pytest.raises(RefusedError, match=r"timeline 2 .* has been taken since"):
                restore.require_swappable()


class Server:
    """Notes what it is asked; `amcheck` is whether the database has it."""

    def __init__(self, *, amcheck: bool) -> None:
        self.amcheck = amcheck
        self.asked: list[str] = []

    def execute(self, query: str, _: object = ()) -> Server:
        self.asked.append(query)
        return self

    def fetchone(self) -> tuple[()] | None:
        return () if self.amcheck else None

    def fetchall(self) -> list[tuple[()]]:
        return []


@pytest.mark.parametrize("amcheck", [False, True])
def test_an_extension_that_was_there_stays(amcheck: bool) -> None:
    server = Server(amcheck=amcheck)
    connection = cast("psycopg.Connection[Any]", server)
    assert list(checks._amcheck(connection, "risk", [])) == []
    assert ("DROP EXTENSION amcheck" in server.asked) is not amcheck
    # An index of a partitioned table has no pages: bt_index_check refuses it.
    assert any("c.relkind = 'i'" in query for query in server.asked)


def test_verify_names_each_file_once() -> None:
    printed = """\
2026-11-29 08:57:14.613 P00   INFO: verify command begin 2.55.1: --config=x
2026-11-29 08:57:14.893 P01   INFO: invalid checksum '20261129-085530F/bundle/1'
2026-11-29 08:56:29.820 P01   INFO: invalid result 17-1/0000/00000001-c0.zst: [29] raised from l
                                        [FormatError] on 2 retries
2026-11-29 08:56:45.405 P01   INFO: file missing '20261129-085530F/bundle/2'
2026-11-29 08:56:45.405 P01   INFO: file missing '20261129-085530F/bundle/2'
2026-11-29 08:56:30.038 P00   INFO: stanza: sluice
                                    status: error
"""
    assert list(verify.reported(printed)) == [
        "invalid checksum '20261129-085530F/bundle/1'",
        "invalid result 17-1/0000/00000001-c0.zst",
        "file missing '20261129-085530F/bundle/2'",
    ]
    unusable = "P00 INFO: stanza: sluice\n   status: error\n     No usable archive.info file\n"
    assert list(verify.reported(unusable)) == ["status: error", "No usable archive.info file"]
    assert list(verify.reported("P00 INFO: stanza: sluice\n   status: ok\n")) == []


def test_an_old_backup_and_none_are_named() -> None:
    info = Info((backup("full", 27),), CLUSTER, "17-1")
    assert list(verify.stale(info, archive(4), NOW)) == [
        "the newest backup, 20261128-090000F, is 27 hours old"
    ]
    assert list(verify.stale(Info((backup("full", 25),), CLUSTER, "17-1"), archive(4), NOW)) == []
    assert list(verify.stale(Info(), Archive(), NOW)) == [
        "there is no backup of the running cluster"
    ]


def test_a_backup_beside_another_one_is_told_apart_from_one_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def says(line: str) -> None:
        script = f"echo '2026-11-29 12:00:00.000 P00  ERROR: {line}'; exit 50"
        monkeypatch.setattr(repository, "command", lambda *_: ["sh", "-c", script])

    says("[050]: unable to acquire lock on file /tmp/sluice-backup.lock: held by another process")
    with pytest.raises(serve.UnderWayError, match="another backup is under way"):
        serve.make("diff")
    says("[056]: unable to acquire PostgreSQL advisory lock")
    with pytest.raises(serve.UnderWayError, match="another backup is under way"):
        serve.make("diff")
    says("[082]: WAL segment was not archived before the 60000ms timeout")
    with pytest.raises(RepositoryError, match="was not archived") as failed:
        serve.make("diff")
    assert not isinstance(failed.value, serve.UnderWayError)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    values = {
        "enabled": True,
        "suffixes": ["", "-2", "-3"],
        "time_utc": "02:30",
        "full_every_days": 7,
    }
    monkeypatch.setattr(repository, "settings", lambda: values)
    return values


def test_when_backups_are_made_is_said_at_the_start_and_after_a_change(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise RepositoryError("not yet")

    monkeypatch.setattr(serve, "require_writable", refuse)
    monkeypatch.setattr(serve, "record", lambda _: None)
    service = serve.Service()
    for time_utc in ("02:30", "02:30", "04:00"):
        service.look(settings | {"time_utc": time_utc})
    said = [line for line in capsys.readouterr().err.splitlines() if "each day" in line]
    assert said == [
        "a backup is made each day at 02:30 UTC, a full one every 7 days",
        "a backup is made each day at 04:00 UTC, a full one every 7 days",
    ]


def test_no_commit_of_the_service_waits_for_a_standby(settings: dict[str, Any]) -> None:
    options = psycopg.conninfo.conninfo_to_dict(serve.dsn())["options"]
    assert options == "-c synchronous_commit=local -c statement_timeout=10s"


def test_a_failure_is_over_with_an_operators_backup_and_a_look_lists_the_archive_once(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = datetime.now(UTC)
    one = replace(backup("full", 0), started=made, stopped=made)
    info = Info((one,), CLUSTER, "17-1")
    listed, written = list[str](), list[str]()

    def list_archive(archive_id: str) -> Archive:
        listed.append(archive_id)
        return archive(4)

    monkeypatch.setattr(serve, "require_writable", lambda: None)
    monkeypatch.setattr(serve, "prepared", lambda: info)
    monkeypatch.setattr(serve, "too_full", lambda: "")
    monkeypatch.setattr(repository, "archive", list_archive)
    monkeypatch.setattr(serve, "record", lambda state: written.append(state["error"]))
    service = serve.Service(failure="the diff backup failed: no room")
    service.look(settings)
    assert (service.failure, written, listed) == ("", [""], ["17-1"])
