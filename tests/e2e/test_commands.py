"""The command line as people and process managers use it: real processes, their output, exit codes and ends."""

import asyncio
import json
import re
import signal
import socket
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest

from reservation import edge
from reservation.demo import Sale
from reservation.domain.model import SeatStatus
from reservation.doors import Rest
from reservation.settings import Settings
from tests.support.aws import REGION, admin_client, received
from tests.support.certificates import Authority
from tests.support.command import Command, Ended, ended, environment_of, started
from tests.support.rest import CREATE, body_of, wanted
from tests.support.system import (
    TABLES,
    call,
    create_request,
    dynamodb_of,
    make_tables,
    own_settings,
    scan,
    serving,
    table_name,
)

GOOD_CSV = """section,row,number,price,currency
Floor,A,1,120000,KRW
Floor,A,2,80000,KRW
"""
BAD_CSV = """section,row,number,price,currency,id
Floor,A,1,120000,KRW,
Floor,A,2,-5,KRW,
,A,3,120000,won,
Floor,A,1,120000,KRW,
Floor,A,4,120000,KRW,A#4
"""
JSON = {
    "event": {"id": "evt_json", "name": "JSON", "holdSeconds": 30},
    "seats": [{"section": "Floor", "row": "A", "number": 1, "price": 120_000, "currency": "KRW"}],
}
EVERYTHING = {
    "event": {
        "id": "evt_[/all]",
        "name": "[bold]All[/bold]",
        "holdSeconds": 90,
        "maxSeats": 4,
        "maxHoldsPerUser": 2,
        "preventOrphans": False,
        "saleStartsAt": "2026-01-31T19:00:00+09:00",
        "saleEndsAt": "2026-02-28T22:30:00Z",
    },
    "seats": [
        *(
            {"section": "Floor", "row": "A", "number": n, "price": 500, "currency": "KRW", "accessible": n == 4}
            for n in range(1, 5)
        ),
        {"section": "Pit [/2]", "price": 100, "currency": "KRW", "capacity": 300},
    ],
}
LOCAL = ("local", "--aws-port", "0", "--admin-port", "0")
FREE_PORTS = {"SERVER_PORT": "0", "GRPC_SERVER_PORT": "0"}
NO_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "",
    "AWS_SECRET_ACCESS_KEY": "",
    "AWS_CONFIG_FILE": "",
    "AWS_SHARED_CREDENTIALS_FILE": "",
}


@pytest.fixture
def settings(ministack_url: str) -> Settings:
    return own_settings(ministack_url)


@pytest.fixture
async def store(settings: Settings) -> dict[str, str]:
    """The environment of commands that use tables of this test."""
    await make_tables(settings)
    return environment_of(settings)


# demo


async def test_the_demo_prints_every_step_and_ends_well() -> None:
    told = await ended("demo")
    assert told.code == 0, told
    unused: Any = None
    titles = [(step.__doc__ or "").strip() for step in Sale(Rest(""), unused, unused).steps()]
    assert [title for title in titles if f"✓ {title}" not in told.out_words] == []
    assert told.out.count("✓") == len(titles)
    assert "✗" not in told.out


async def test_a_demo_whose_step_fails_says_which_and_why_and_exits_1() -> None:
    told = await ended("demo", MAX_SEATS_PER_RESERVATION="1")
    assert told.code == 1
    assert "✗ POST /v1/reservations holds two seats" in told.out_words
    assert "INVALID_REQUEST" in told.out
    assert told.out.count("✓") == 1


# local


async def test_local_welcomes_with_commands_that_work_as_they_stand() -> None:
    async with started(*LOCAL, **FREE_PORTS) as command:
        url = await _up(command)
        *curls, grpcurl = _commands(command.out)
        assert f"{url}/swagger-ui.html" in "".join(command.out)
        for curl, seat_ids in zip(curls, ('["A-12","A-13"]', '["A-24","A-25","A-26"]'), strict=True):
            created = await _shell(curl)
            assert created.startswith("HTTP/1.1 201 ")
            assert f'"seatIds":{seat_ids}' in created
        assert json.loads(await _shell(grpcurl))["status"] == "HOLD"
        assert (await command.end(signal.SIGINT)).code == 0


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -9)], ids=str)
async def test_local_leaves_no_process_behind_however_it_ends(by: signal.Signals, code: int) -> None:
    async with started(*LOCAL, "--processes", "2", **FREE_PORTS) as command:
        await _up(command)
        children = command.descendants()
        assert {"envoy", "sh"} <= {child.name() for child in children}
        told = await command.end(by)
    assert told.code == code, told
    assert "Traceback" not in told.err
    await _gone(children)


async def test_local_with_two_processes_spreads_rest_over_both_and_ends_when_one_does() -> None:
    """Each tells of the calls that it has served itself."""
    async with started(*LOCAL, "--processes", "2", **FREE_PORTS) as command:
        url = await _up(command)
        children = command.descendants()
        metrics = [(await command.says(rf"process {number} .* metrics (\S+)"))[1] for number in (1, 2)]
        async with httpx.AsyncClient() as rest:
            for _ in range(12):
                assert (await rest.get(f"{url}/v1/events/evt_2025_1001/inventory")).status_code == 200
            served = [_served((await rest.get(each)).text, "GetInventoryStatus") for each in metrics]
        assert sum(served) == 12
        assert min(served) > 0
        grpc_address = (await command.says(r"process 2 +gRPC (\S+)"))[1]
        (second,) = (child for child in children if _listens(child, int(grpc_address.rpartition(":")[2])))
        second.kill()
        told = await command.end()
    assert told.code == 1, told
    assert f"ProcessEnded the process of the service on {grpc_address} has ended with code -9" in told.err
    await _gone(children)


async def test_a_ctrl_c_while_local_starts_ends_it_as_cleanly() -> None:
    async with started(*LOCAL, **FREE_PORTS) as command:
        await command.starts_a_child()
        children = command.descendants()
        told = await command.end(signal.SIGINT)
    assert told.code == 130, told
    assert "Traceback" not in told.err
    await _gone(children)


async def test_local_with_a_state_folder_keeps_reservations_and_keys_over_a_clean_stop(tmp_path: Path) -> None:
    arguments = (*LOCAL, "--state", str(tmp_path / "state"))
    request: dict[str, Any] = {"json": wanted(["A-1"]), "headers": {"idempotency-key": "k"}}
    seen = []
    for _ in range(2):
        async with started(*arguments, **FREE_PORTS) as command:
            async with httpx.AsyncClient(base_url=await _up(command)) as rest:
                answer = await rest.post(CREATE, **request)
                body = body_of(answer, 201)
                read = body_of(await rest.get(f"{CREATE}/{body['reservationId']}"), 200)
            seen.append((body, read, answer.headers.get("idempotent-replayed")))
            assert (await command.end(signal.SIGINT)).code == 0
    (first, first_read, fresh), (second, second_read, replayed) = seen
    assert (second, second_read) == (first, first_read)
    assert (fresh, replayed) == (None, "true")


async def test_local_says_which_port_is_taken_and_leaves_nothing_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = str(listener.getsockname()[1])
        aws = await ended("local", "--aws-port", taken, "--admin-port", "0", **FREE_PORTS)
        grpc_port = await ended(*LOCAL, SERVER_PORT="0", GRPC_SERVER_PORT=taken)
        rest_port = await ended(*LOCAL, SERVER_PORT=taken, GRPC_SERVER_PORT="0")
    for told in (aws, grpc_port, rest_port):
        assert told.code == 1
        assert taken in told.err
        assert "Traceback" not in told.err


# bus


async def test_bus_create_makes_a_bus_once_and_a_queue_that_gets_its_events(
    ministack_url: str, settings: Settings
) -> None:
    name = f"bus-{settings.dynamodb_table_orders}"
    environment = environment_of(settings) | {
        "AWS_EVENTBRIDGE_ENDPOINT": ministack_url,
        "EVENTBRIDGE_BUS_NAME": name,
        "AWS_REGION": REGION,
        "COLUMNS": "20",
    }
    made = await ended("bus", "create", "--queue", name, **environment)
    assert (made.code, made.out.splitlines()[0]) == (0, f"created: {name}"), made
    again = await ended("bus", "create", **environment)
    assert (again.code, again.out) == (0, f"{name} is there\n"), again
    async with admin_client("events", ministack_url) as events, admin_client("sqs", ministack_url) as sqs:
        entry = {"EventBusName": name, "Source": "reservation-api", "DetailType": "t", "Detail": '{"messageId":"m"}'}
        await events.put_events(Entries=[entry])
        (got,) = await received(sqs, made.out.splitlines()[1], 1)
    assert got["detail"] == {"messageId": "m"}


# serve


async def test_serve_sells_what_was_imported_until_sigterm(tmp_path: Path, settings: Settings) -> None:
    environment = environment_of(settings)
    assert (await ended("tables", "create", **environment)).code == 0
    assert (await _import(tmp_path, "hall.csv", GOOD_CSV, "--event", "evt_csv", **environment)).code == 0
    async with started("serve", **environment, **FREE_PORTS) as command:
        port = (await command.says(r'"grpc_port":(\d+)'))[1]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            held = await call(channel, create_request(["A-1", "A-2"], event_id="evt_csv"))
        assert held.message.total_amount.amount == 200_000
        told = await command.end(signal.SIGTERM)
    assert told.code == 0, told
    events = [json.loads(line)["event"] for line in told.err.splitlines()]
    assert (events[-1], "authentication.off" in events) == ("stopped", True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRPC_SERVER_PORT", "many"),
        ("SERVER_PORT", "65536"),
        ("HOLD_SECONDS", "4"),
        ("MAX_SEATS_PER_RESERVATION", "11"),
        ("LOG_LEVEL", "LOUD"),
        ("AWS_CLIENT", "boto"),
        ("JWT_ISSUER_URI", "http://issuer.example"),
    ],
)
async def test_serve_with_a_bad_setting_names_it_and_its_value_and_does_not_start(name: str, value: str) -> None:
    told = await ended("serve", **{name: value})
    assert (told.code, told.out) == (1, "")
    assert f"{name}='{value}': " in told.err_words
    assert "Traceback" not in told.err


async def test_every_bad_setting_is_named_at_once() -> None:
    told = await ended("serve", SHARDS="0", GRPC_SERVER_PORT="-1")
    assert "SHARDS='0'" in told.err_words
    assert "GRPC_SERVER_PORT='-1'" in told.err_words


async def test_serve_refuses_to_let_everybody_in_who_comes_from_elsewhere() -> None:
    told = await ended("serve", BIND_HOST="0.0.0.0", **FREE_PORTS)  # noqa: S104
    assert told.code == 1
    assert "set JWT_ISSUER_URI and JWT_AUDIENCE, or ALLOW_UNAUTHENTICATED=true" in told.err_words
    assert "Traceback" not in told.err


async def test_a_bad_setting_under_a_former_name_is_named_as_it_was_set() -> None:
    former = "SPRING_SECURITY_OAUTH2_RESOURCESERVER_JWT_ISSUER_URI"
    told = await ended("serve", **{former: "http://issuer.example"})
    assert told.code == 1
    assert f"{former}='http://issuer.example': " in told.err_words


async def test_serve_without_credentials_says_so_in_one_line() -> None:
    told = await ended("serve", **FREE_PORTS, **NO_CREDENTIALS)
    assert (told.code, told.out) == (1, "")
    assert told.err.count("\n") == 1
    assert "no AWS credentials found" in told.err


async def test_an_error_is_one_line_however_long_it_is() -> None:
    told = await ended("serve", JWT_ISSUER_URI="http://issuer.example/" + "x" * 80)
    assert told.err.count("\n") == 1


async def test_serve_on_a_port_in_use_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        told = await ended("serve", GRPC_SERVER_PORT=port)
    assert told.code == 1
    assert f"127.0.0.1:{port} (BIND_HOST:GRPC_SERVER_PORT)" in told.err_words
    assert "Traceback" not in told.err


# tables, events


async def test_tables_are_created_once(settings: Settings) -> None:
    environment = environment_of(settings)
    first, second = [await ended("tables", "create", **environment) for _ in range(2)]
    assert (first.code, second.code) == (0, 0)
    assert first.out_words == "created: " + ", ".join(table_name(settings, name) for name in TABLES)
    assert second.out_words == "all tables are there"


async def test_a_csv_file_is_imported_once_and_free_seats_follow_its_prices(
    tmp_path: Path, settings: Settings, store: dict[str, str]
) -> None:
    first = await _import(tmp_path, "hall.csv", GOOD_CSV, "--event", "evt_csv", "--name", "Hall", **store)
    again = await _import(tmp_path, "hall.csv", GOOD_CSV, "--event", "evt_csv", "--name", "Hall", **store)
    cheaper = GOOD_CSV.replace("80000", "70000")
    repriced = await _import(tmp_path, "hall.csv", cheaper, "--event", "evt_csv", "--name", "Hall", **store)
    kept = "0 kept as they are (held, sold or standing elsewhere)"
    assert [told.out_words for told in (first, again, repriced)] == [
        f"evt_csv: 2 seats added, 0 changed, 0 unchanged, {kept}",
        f"evt_csv: 0 seats added, 0 changed, 2 unchanged, {kept}",
        f"evt_csv: 0 seats added, 1 changed, 1 unchanged, {kept}",
    ]
    event, *seats = await _inventory(settings)
    assert event == {
        "pk": {"S": "evt_csv#"},
        "eventId": {"S": "evt_csv"},
        "name": {"S": "Hall"},
        "preventOrphans": {"BOOL": True},
    }
    assert [(seat["id"]["S"], seat["amount"]["N"], seat["status"]["S"]) for seat in seats] == [
        ("A-1", "120000", SeatStatus.AVAILABLE),
        ("A-2", "70000", SeatStatus.AVAILABLE),
    ]


async def test_a_json_file_names_its_event_itself(tmp_path: Path, settings: Settings, store: dict[str, str]) -> None:
    assert (await _import(tmp_path, "hall.json", json.dumps(JSON), **store)).code == 0
    event, seat = await _inventory(settings)
    assert (event["eventId"]["S"], event["name"]["S"], event["holdSeconds"]["N"]) == ("evt_json", "JSON", "30")
    assert seat["pk"]["S"] == "evt_json#A-1"


async def test_a_file_with_bad_lines_lists_them_all_and_nothing_is_written(
    tmp_path: Path, settings: Settings, store: dict[str, str]
) -> None:
    told = await _import(tmp_path, "hall.csv", BAD_CSV, "--event", "evt_csv", **store)
    assert (told.code, told.out) == (1, "")
    assert "hall.csv was not imported: 5 problem(s)" in told.err_words
    assert re.findall(r"line (\d+): (\w+)", told.err) == [
        *(("3", "price"), ("4", "section"), ("4", "currency"), ("5", "seat"), ("6", "the")),
    ]
    assert await _inventory(settings) == []


@pytest.mark.parametrize("name", ["nothing.csv", "nothing.json", ""], ids=["csv", "json", "folder"])
async def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    told = await ended("events", "import", str(tmp_path / name), "--event", "evt_csv")
    assert told.code == 1
    assert "Traceback" not in told.err
    assert str(tmp_path / name) in told.err_words


async def test_an_import_without_tables_says_what_is_missing(tmp_path: Path, settings: Settings) -> None:
    told = await _import(tmp_path, "hall.csv", GOOD_CSV, "--event", "evt_csv", **environment_of(settings))
    assert told.code == 1
    assert "ResourceNotFoundException" in told.err
    assert "Traceback" not in told.err


async def test_the_demo_event_is_imported(settings: Settings, store: dict[str, str]) -> None:
    told = await ended("events", "demo", **store)
    assert told.code == 0, told
    assert told.out_words.startswith("evt_2025_1001: 700 seats added, ")
    assert len(await _inventory(settings)) == 701


async def test_a_json_file_with_everything_is_imported_shown_and_kept_by_a_csv_file_after_it(
    tmp_path: Path, store: dict[str, str]
) -> None:
    imported = await _import(tmp_path, "hall.json", json.dumps(EVERYTHING), **store)
    assert imported.out_words.startswith("evt_[/all]: 304 seats added, 0 changed, ")
    shown = await ended("events", "show", "evt_[/all]", COLUMNS="200", **store)
    assert shown.code == 0, shown
    assert [line.split() for line in shown.out.splitlines()] == [
        ["event", "evt_[/all]", "[bold]All[/bold]"],
        ["hold", "90", "s"],
        ["seats", "a", "reservation", "4"],
        ["live", "holds", "a", "user", "2"],
        ["single", "seats", "left", "over", "allowed"],
        ["sale", "starts", "2026-01-31", "10:00:00+00:00"],
        ["sale", "ends", "2026-02-28", "22:30:00+00:00"],
        ["section", "kind", "total", "available", "held", "sold", "blocked"],
        ["Floor", "NUMBERED", "4", "4", "0", "0", "0"],
        ["Pit", "[/2]", "GENERAL_ADMISSION", "300", "300", "0", "0", "0"],
    ]
    assert (await _import(tmp_path, "more.csv", GOOD_CSV, "--event", "evt_[/all]", "--name", "New", **store)).code == 0
    again = await ended("events", "show", "evt_[/all]", COLUMNS="200", **store)
    assert again.out.splitlines()[1:7] == shown.out.splitlines()[1:7]
    assert "evt_[/all] New" in again.out_words


async def test_events_show_of_an_event_that_is_not_there_or_says_nothing_of_itself(
    tmp_path: Path, store: dict[str, str]
) -> None:
    missing = await ended("events", "show", "evt_csv", **store)
    assert (missing.code, missing.out_words) == (1, "no such event")
    await _import(tmp_path, "hall.csv", GOOD_CSV, "--event", "evt_csv", **store)
    told = await ended("events", "show", "evt_csv", **store)
    assert told.out_words.startswith("event evt_csv hold as the service's settings say ")
    assert "single seats left over avoided sale starts at once sale ends never" in told.out_words


async def test_an_import_that_contradicts_the_seats_that_are_there_is_one_line(
    tmp_path: Path, store: dict[str, str]
) -> None:
    await _import(tmp_path, "hall.json", json.dumps(EVERYTHING), **store)
    rows = "section,row,number,price,currency\nPit [/2],Z,1,5,KRW\n"
    told = await _import(tmp_path, "hall.csv", rows, "--event", "evt_[/all]", **store)
    assert told.code == 1
    assert "section Pit [/2] has seats with and without row and number" in told.err_words
    assert "Traceback" not in told.err


async def test_seats_are_blocked_and_put_back_on_sale(
    tmp_path: Path, settings: Settings, store: dict[str, str]
) -> None:
    await _import(tmp_path, "hall.csv", GOOD_CSV, "--event", "evt_csv", **store)
    blocked = await ended("events", "block", "evt_csv", "A-1", "A-2", **store)
    assert (blocked.code, blocked.out_words) == (0, "2 blocked")
    assert "Floor NUMBERED 2 0 0 0 2" in (await ended("events", "show", "evt_csv", **store)).out_words
    freed = await ended("events", "unblock", "evt_csv", "A-1", **store)
    assert (freed.code, freed.out_words) == (0, "1 unblocked")
    async with serving(settings) as system:
        await call(system.channel, create_request(["A-1"], event_id="evt_csv"))
        taken = await ended("events", "block", "evt_csv", "A-1", "A-2", "[Z-9]", **store)
    assert taken.code == 1
    assert taken.out_words == "1 blocked held, sold or unknown, and left as they are: A-1, [Z-9]"
    freed = await ended("events", "unblock", "evt_csv", "A-1", "A-2", **store)
    assert (freed.code, "left as they are: A-1" in freed.out_words) == (1, True)
    for command in ("block", "unblock"):
        nowhere = await ended("events", command, "evt_nowhere", "A-1", **store)
        assert (nowhere.code, nowhere.out_words) == (1, "no such event")
    assert [seat["status"]["S"] for seat in (await _inventory(settings))[1:]] == ["HELD", "AVAILABLE"]


# envoy-config


async def test_the_printed_envoy_configuration_is_valid_and_follows_the_settings(tmp_path: Path) -> None:
    told = await ended("envoy-config", SERVER_PORT="18010", GRPC_SERVER_PORT="18011", BIND_HOST="127.0.0.2")
    assert (told.code, told.err) == (0, "")
    for value in ("port_value: 18010 ", "port_value: 18011}", '"127.0.0.2"'):
        assert value in told.out
    config = tmp_path / "envoy.yaml"
    config.write_text(told.out)
    command = [edge.binary(), "--mode", "validate", "--config-path", str(config)]
    checked = await asyncio.create_subprocess_exec(
        *command, cwd=edge.directory(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await checked.communicate()
    assert checked.returncode == 0, said[:600]


async def test_envoy_starts_in_the_folder_that_was_written_for_it(tmp_path: Path) -> None:
    """The folder may be another user's, as one that is mounted into a container: only files are made in it."""
    into = tmp_path / "edge"
    into.mkdir()
    into.chmod(0o1777)
    told = await ended("envoy-config", "--into", str(into), SERVER_PORT="18010", BIND_HOST="127.0.0.2")
    assert (told.code, told.out, told.err) == (0, "", "")
    assert into.stat().st_mode & 0o7777 == 0o1777
    command = [edge.binary(), "--mode", "validate", "--config-path", "envoy.yaml"]
    checked = await asyncio.create_subprocess_exec(
        *command, cwd=into, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await checked.communicate()
    assert checked.returncode == 0, said[:600]
    assert "port_value: 18010 " in (into / "envoy.yaml").read_text()


async def test_without_settings_it_prints_the_committed_file() -> None:
    default = {"METRICS_PORT": ""}  # other commands of the tests take any free one
    assert (await ended("envoy-config", **default)).out == (edge.directory() / "envoy.yaml").read_text()


async def test_with_tls_envoy_starts_in_the_folder_that_was_written_for_it_and_needs_one(tmp_path: Path) -> None:
    certificate, key = Authority().issue().write(tmp_path, "edge")
    identity = {"EDGE_TLS_CERT_FILE": str(certificate), "EDGE_TLS_KEY_FILE": str(key)}
    assert "--into DIR" in (await ended("envoy-config", **identity)).err_words
    into = tmp_path / "edge"
    assert (await ended("envoy-config", "--into", str(into), **identity)).code == 0
    command = [edge.binary(), "--mode", "validate", "--config-path", "envoy.yaml"]
    checked = await asyncio.create_subprocess_exec(
        *command, cwd=into, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await checked.communicate()
    assert checked.returncode == 0, said[:600]
    assert str(key) in (into / "edge_certificate.json").read_text()


# envoy-drain


async def test_a_drained_envoy_takes_no_more_connections() -> None:
    async with edge.running(edge.EdgeConfig(port=0, admin_port=0)) as envoy, httpx.AsyncClient() as client:
        assert (await client.get(f"{envoy.url}/v1/nothing")).status_code == 404
        told = await ended("envoy-drain", "--admin-port", envoy.admin_url.rpartition(":")[2])
        assert (told.code, told.out, told.err) == (0, "", "")
        async with httpx.AsyncClient() as late:
            with pytest.raises(httpx.ConnectError):
                await late.get(f"{envoy.url}/v1/nothing")


async def test_where_no_envoy_is_there_is_nothing_to_drain() -> None:
    """Else the service beside an Envoy that has died would not be told to stop before its time is over."""
    await edge.drain("127.0.0.1:9", seconds=60)


async def _up(command: Command) -> str:
    """The URL of its REST door, once it has printed its welcome and answers: from then on signals stop it cleanly."""
    await command.says("CreateReservation")
    url = (await command.says(r"REST\s+(http://\S+)/v1/reservations"))[1]
    async with httpx.AsyncClient() as rest:
        assert (await rest.get(f"{url}/health")).status_code in (200, 503)
    return url


def _served(metrics: str, rpc: str) -> int:
    """How many calls of this method the exposition counts."""
    counts = re.findall(rf'^grpc_server_handling_seconds_count{{.*"{rpc}".*}} (\S+)$', metrics, re.MULTILINE)
    return int(sum(map(float, counts)))


def _listens(process: psutil.Process, port: int) -> bool:
    return any(each.laddr.port == port for each in process.net_connections(kind="tcp") if each.status == "LISTEN")


def _commands(lines: list[str]) -> list[str]:
    """The curl and grpcurl lines that `local` prints, with their continuations."""
    found = re.findall(r"^  (curl|grpcurl)( .*(?:\\\n.*)+)", "".join(lines), re.MULTILINE)
    return [f"curl --silent{arguments}" if name == "curl" else name + arguments for name, arguments in found]


async def _shell(command: str) -> str:
    process = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def _gone(processes: list[psutil.Process]) -> None:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=20)
    assert alive == []


async def _import(tmp_path: Path, name: str, content: str, *options: str, **environment: str) -> Ended:
    file = tmp_path / name
    file.write_text(content)
    return await ended("events", "import", str(file), *options, **environment)


async def _inventory(settings: Settings) -> list[dict[str, Any]]:
    """Events and seats by their keys: an event comes before its seats."""
    async with dynamodb_of(settings) as dynamodb:
        items = await scan(dynamodb, settings.dynamodb_table_inventory)
    return sorted((item for item in items if "##" not in item["pk"]["S"]), key=lambda item: str(item["pk"]["S"]))
