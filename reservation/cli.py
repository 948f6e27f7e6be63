"""The command line."""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TimeRemainingColumn

from reservation import app, catalog, demo, edge, local, ministack, probe
from reservation.aws.errors import AwsError
from reservation.aws.session import connect, session
from reservation.background.loops import LoopDied
from reservation.catalog import BadFile, Catalog
from reservation.domain.errors import ReservationError
from reservation.dynamodb.events import EventImport, Imported
from reservation.dynamodb.tables import create_tables
from reservation.eventbridge import create_bus, subscribe_queue
from reservation.operators import Operators, operators
from reservation.processes import ProcessEnded
from reservation.settings import Settings, SettingsError
from reservation.telemetry import logs

commands = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Ticket reservations."
)
tables_commands = typer.Typer(no_args_is_help=True, help="The DynamoDB tables.")
bus_commands = typer.Typer(no_args_is_help=True, help="The event bus.")
events_commands = typer.Typer(no_args_is_help=True, help="What is for sale.")
outbox_commands = typer.Typer(no_args_is_help=True, help="Dead letters: events that the bus refuses.")
shards_commands = typer.Typer(no_args_is_help=True, help="The partitions of outbox and due index.")
for _name, _group in (
    ("tables", tables_commands),
    ("bus", bus_commands),
    ("events", events_commands),
    ("outbox", outbox_commands),
    ("shards", shards_commands),
):
    commands.add_typer(_group, name=_name)

_out = Console()
_err = Console(stderr=True)

_PLAIN_TEXT = dict.fromkeys(("tls_cert_file", "edge_tls_cert_file", "edge_upstream_ca_file"))
"""No certificates: the demo talks to itself."""

_EXPECTED = (
    app.StartError,
    LoopDied,
    ProcessEnded,
    edge.EdgeError,
    ministack.MinistackMissingError,
    ministack.ServerStartError,
    SettingsError,
    ReservationError,
    AwsError,
    BotoCoreError,
    ClientError,
    OSError,
)


@commands.command()
def serve() -> None:
    """Serve gRPC until SIGTERM or Ctrl-C, then finish what is under way. Exit 1 if a part of it died."""
    settings = _settings()

    async def main() -> None:
        stop = _stop_asked_for()
        async with app.running(settings):
            collect_rarely()
            await stop.wait()

    _run(main())


@commands.command()
def health(
    port: Annotated[int | None, typer.Option(help="Its gRPC port, if not GRPC_SERVER_PORT.")] = None,
    liveness: Annotated[bool, typer.Option("--liveness", help="Whether it runs, not whether it can serve.")] = False,
) -> None:
    """Ask the service on this machine whether it is ready; exit 1 if it is not."""
    settings = _settings()
    address = edge.local_address(settings.bind_host, port or settings.grpc_server_port)
    found = probe.state(address, "liveness" if liveness else "readiness")
    _out.print(found, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if found == probe.SERVING else 1)


@commands.command("local")
def run_local(
    state: Annotated[Path | None, typer.Option(help="Keep the data in this folder over a clean stop.")] = None,
    aws_port: Annotated[int, typer.Option(help="Where the emulated AWS listens; 0 takes any free port.")] = 4566,
    admin_port: Annotated[int, typer.Option(help="Where Envoy's admin pages are; 0 takes any free port.")] = 9901,
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="Of the service: those after the first listen on free ports.")
    ] = 1,
) -> None:
    """Run everything on this machine: emulated AWS, tables, a demo event, the service, Envoy. Ctrl-C stops it all."""
    settings = _settings()

    async def main() -> None:
        running = local.running(
            settings, aws_port=aws_port, admin_port=admin_port, state_dir=state, service_processes=processes
        )
        async with running as stack:
            stop = _stop_asked_for()
            _out.print(local.welcome(stack), soft_wrap=True, highlight=False)
            await stop.wait()

    _run(main())


@commands.command("demo")
def run_demo() -> None:
    """Play a scripted sale against a whole system on free ports; exit 1 if any step is not as it should be."""
    settings = _settings(log_level="WARNING").model_copy(
        update=dict.fromkeys(("server_port", "grpc_server_port", "metrics_port"), 0)
        | {"bind_host": "127.0.0.1", "jwt_issuer_uri": None}
        | _PLAIN_TEXT
    )

    async def main() -> bool:
        async with local.running(settings, aws_port=0, admin_port=0, state_dir=None) as stack:
            return await demo.play(stack, _out)

    raise typer.Exit(0 if _run(main()) else 1)


@commands.command("envoy-config")
def envoy_config(
    into: Annotated[
        Path | None, typer.Option(help="Write it into this folder instead, with the files that it names.")
    ] = None,
) -> None:
    """Print Envoy's configuration for the settings in the environment. Start Envoy in the folder of its files."""
    settings = _settings()
    try:
        config = app.edge_config_of(settings)
        if into is not None:
            edge.write(config, into)
        elif config.secret_files():
            raise app.StartError("with TLS it is more than one file: --into DIR")
        else:
            sys.stdout.write(edge.render(config))
    except (app.StartError, OSError) as error:
        _fail(error)


@commands.command("envoy-drain")
def envoy_drain(
    admin_port: Annotated[int, typer.Option(help="Where Envoy's admin pages are.")] = 9901,
    seconds: Annotated[float, typer.Option(help="At most so long, whatever is still open then.")] = 15.0,
) -> None:
    """Have the Envoy of this host send its clients away; end once its listener is closed and its requests are done."""
    _run(edge.drain(f"127.0.0.1:{admin_port}", seconds))


@tables_commands.command("create")
def tables_create() -> None:
    """Create the tables that are missing."""
    settings = _settings()

    async def main() -> list[str]:
        client = session(app.aws_config_of(settings)).create_client("dynamodb", endpoint_url=settings.dynamodb_endpoint)
        async with client as dynamodb:
            return await create_tables(dynamodb, app.tables_of(settings))

    created = _run(main())
    _out.print(f"created: {', '.join(created)}" if created else "all tables are there")


@bus_commands.command("create")
def bus_create(
    queue: Annotated[
        str | None, typer.Option(help="Also make an SQS queue of this name that gets every event, and print its URL.")
    ] = None,
) -> None:
    """Create the event bus if it is missing."""
    settings = _settings()

    async def main() -> tuple[bool, str | None]:
        aws = session(app.aws_config_of(settings))
        bus = settings.eventbridge_bus_name
        async with (
            aws.create_client("events", endpoint_url=settings.eventbridge_endpoint) as events,
            aws.create_client("sqs", endpoint_url=settings.aws_endpoint_url) as sqs,
        ):
            created = await create_bus(events, bus)
            return created, await subscribe_queue(events, sqs, bus, queue) if queue else None

    created, url = _run(main())
    name = settings.eventbridge_bus_name
    _out.print(f"created: {name}" if created else f"{name} is there", markup=False, highlight=False, soft_wrap=True)
    if url is not None:
        _out.print(url, markup=False, highlight=False, soft_wrap=True)


@events_commands.command("import")
def events_import(
    file: Annotated[
        Path, typer.Argument(help="CSV (section,row,number,price,currency[,id][,accessible][,capacity]) or JSON.")
    ],
    event: Annotated[str | None, typer.Option(help="The event's id; CSV files need it.")] = None,
    name: Annotated[str | None, typer.Option(help="The event's name.")] = None,
) -> None:
    """Import an event. Nothing is written if a line is bad. After an interruption run it again: it goes on."""
    settings = _settings()
    try:
        found = catalog.read(file, event_id=event, name=name)
    except BadFile as error:
        _err.print(f"[red]{escape(str(file))} was not imported: {len(error.problems)} problem(s)[/red]", soft_wrap=True)
        for problem in error.problems[:100]:
            _err.print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except OSError as error:
        _fail(error)
    _import(settings, found)


@events_commands.command("demo")
def events_demo() -> None:
    """Import the demo event."""
    _import(_settings(), catalog.demo())


@events_commands.command("show")
def events_show(event: str) -> None:
    """Show an event's settings, and how many seats of each section are free, held, sold and blocked."""
    _operate(lambda operators: operators.show_event(event))


@events_commands.command("block")
def events_block(event: str, seats: list[str]) -> None:
    """Take seats off sale; exit 1 if any is held or sold, or there is no such seat."""
    _operate(lambda operators: operators.block_seats(event, seats))


@events_commands.command("unblock")
def events_unblock(event: str, seats: list[str]) -> None:
    """Put blocked seats back on sale."""
    _operate(lambda operators: operators.unblock_seats(event, seats))


@outbox_commands.command("list")
def outbox_list() -> None:
    """List the dead letters; exit 1 if there are any."""
    _operate(Operators.list_dead)


@outbox_commands.command("show")
def outbox_show(shard: str, seq: str) -> None:
    """Show one dead letter and why it was refused."""
    _operate(lambda operators: operators.show_dead(shard, seq))


@outbox_commands.command("replay")
def outbox_replay(
    shard: Annotated[str | None, typer.Argument()] = None, seq: Annotated[str | None, typer.Argument()] = None
) -> None:
    """Publish dead letters again: one, those of a shard, or all."""
    _operate(lambda operators: operators.replay_dead(shard, seq))


@outbox_commands.command("purge")
def outbox_purge(shard: str, seq: str) -> None:
    """Delete one dead letter: its event will never be published."""
    _operate(lambda operators: operators.purge_dead(shard, seq))


@commands.command("leases")
def leases() -> None:
    """Show which process holds which shard, and since when."""
    _operate(Operators.leases)


@shards_commands.command("list")
def shards_list() -> None:
    """The same as `reservation leases`."""
    _operate(Operators.leases)


@shards_commands.command("add")
def shards_add(name: str) -> None:
    """Add a shard, or bring one that is retiring back into use."""
    _operate(lambda operators: operators.add_shard(name))


@shards_commands.command("retire")
def shards_retire(name: str) -> None:
    """Take a shard out of use and remove it when it is empty; exit 1 if it is not empty yet."""
    _operate(lambda operators: operators.retire_shard(name))


@commands.command("audit")
def audit(
    queue: Annotated[str | None, typer.Option(help="URL of an SQS queue that gets every event.")] = None,
    inventory: Annotated[bool, typer.Option("--inventory", help="Ask the remote inventory about every seat.")] = False,
) -> None:
    """Read all tables and report every broken promise; exit 1 if there is one. Works on a live system."""
    _operate(lambda operators: operators.audit(queue, inventory=inventory))


def _operate(command: Callable[[Operators], Awaitable[bool]]) -> None:
    settings = _settings(log_level="WARNING")

    async def main() -> bool:
        async with operators(settings, _out) as them:
            return await command(them)

    raise typer.Exit(0 if _run(main()) else 1)


def _import(settings: Settings, found: Catalog) -> None:
    async def main(progress: Progress) -> Imported:
        client = await connect(app.aws_config_of(settings), "dynamodb", endpoint_url=settings.dynamodb_endpoint)
        bar = progress.add_task(escape(found.event.id), total=len(found.seats))
        importing = EventImport(client, settings.dynamodb_table_inventory)
        try:
            return await importing.run(
                found.event,
                found.seats,
                lambda seats: progress.advance(bar, seats),
                keep_settings=found.keep_settings,
            )
        finally:
            await client.close()

    with Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn(), console=_err) as progress:
        done = _run(main(progress))
    _out.print(
        f"{found.event.id}: {done.added} seats added, {done.changed} changed, {done.unchanged} unchanged, "
        f"{done.kept} kept as they are (held, sold or standing elsewhere)",
        markup=False,
    )


def _settings(log_level: str | None = None) -> Settings:
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        _fail(error)
    logs.configure(level=log_level or settings.log_level, log_format=settings.log_format)
    return settings


def _run(main: Coroutine[Any, Any, Any]) -> Any:
    """Runs a command; what a user can mend is one line on stderr, not a stack."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except _EXPECTED as error:
        _fail(error)
    except ExceptionGroup as errors:
        expected, others = errors.split(_EXPECTED)
        if others is not None or expected is None:
            raise
        _fail(expected.exceptions[0])


def _fail(error: Exception) -> Any:
    _err.print(f"[red]error:[/red] {type(error).__name__}", end=" ")
    _err.print(str(error), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1) from None


def collect_rarely() -> None:
    """What is there at the start is for good, and what a request leaves goes by its reference count; but each burst of
    requests looks to Python like growth, at 700 objects, and it looks for cycles where there are none: for up to 4 % of
    a create's CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20)


def _stop_asked_for() -> asyncio.Event:
    """Set at SIGTERM or Ctrl-C, from now on."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, asked.set)
    return asked
