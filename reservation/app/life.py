"""A service from its start to its end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from reservation.api.server import Health, build
from reservation.app.connections import Clients, connect_clients, events_of, remote_inventory
from reservation.app.entrances import access_of, bind, keyring_of, most_open, require_authentication, server_credentials
from reservation.app.errors import StartError
from reservation.app.observation import exposing, telemetry_of
from reservation.app.parts import Parts
from reservation.auth.keyring import Keyring
from reservation.background.bus import Bus, BusCheck
from reservation.background.loops import Loops
from reservation.background.readiness import Readiness
from reservation.clock import TOLERANCE_SECONDS, Clock
from reservation.settings import Settings
from reservation.watches import Watches

log = structlog.get_logger()


DRAIN_SECONDS = 10.0
"""How long requests under way may take to finish after a stop was asked for."""


@dataclass(frozen=True, slots=True)
class Running:
    """A service that takes requests on `grpc_port`, and tells of itself on `metrics_port`."""

    grpc_port: int
    metrics_port: int


@asynccontextmanager
async def running(
    settings: Settings,
    *,
    clock_offset: int = 0,
    clock_tolerance: float = TOLERANCE_SECONDS,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Running]:
    """Serves inside the block. `clock_offset` (milliseconds) moves the service's clock, and `clock_tolerance` (seconds)
    is how far off it may be, for tests and drills; `sleep` is how it lingers.

    Raises StartError, and LoopDied when a loop dies: it interrupts the block. Shutting down, in this order: not ready,
    but serving until who looks at readiness has gone elsewhere; watches end, no new requests, those under way finish,
    commands whose callers left finish, loops stop, leases are handed over, connections close, spans that are left are
    sent.
    """
    require_authentication(settings)
    credentials = server_credentials(settings)
    async with AsyncExitStack() as closing:
        keyring = keyring_of(settings, closing)
        telemetry = telemetry_of(settings)
        closing.push_async_callback(telemetry.traces.close)
        metrics_port = await closing.enter_async_context(exposing(settings, telemetry))
        clients = await connect_clients(settings, closing, telemetry)
        bus = BusCheck(events_of(settings, clients, telemetry), settings.eventbridge_bus_name)
        if await bus.check() is Bus.MISSING:
            raise StartError(f"{bus.problem} (EVENTBRIDGE_BUS_NAME): events sent to it would vanish")
        clock = Clock(lambda: clients.requests.server_date, offset=clock_offset, tolerance=clock_tolerance)
        loops = Loops()
        remote = remote_inventory(
            settings,
            closing,
            interceptors=telemetry.traces.client_interceptors(),
            asked=telemetry.metrics.asked_elsewhere,
        )
        parts = Parts(settings, clients, clock, bus, loops, remote, telemetry)
        use_cases = parts.use_cases(clients.requests)
        watches = Watches(use_cases.reservations, parts.audience, clock, max_clock_skew=parts.policy.max_clock_skew)
        health = Health()
        await health.start()
        if keyring is not None:
            await keyring.refresh()
        else:
            log.warning("authentication.off", consequence="every caller is believed; keep the ports private")
        services = parts.services(use_cases, watches, access_of(settings, keyring, clock))
        server = build(services, health, max_rpcs=most_open(settings))
        port = bind(server, settings, credentials)
        readiness = Readiness(clients.requests, parts.tables, parts.clock, bus, health.ready)
        await readiness.check()  # so that the first command finds a clock that is known to be right, or refused
        await parts.background.enroll()
        await server.start()
        log.info(
            "serving",
            grpc_port=port,
            metrics_port=metrics_port,
            worker_id=parts.background.worker_id,
            inventory=settings.grpc_client_inventory_service_address or "embedded",
            tls="off" if settings.tls_cert_file is None else "mutual" if settings.tls_client_ca_file else "on",
        )
        for name, loop in _loops(parts, clients, bus, watches, readiness, keyring).items():
            loops.start(loop, name=name)
        try:
            async with loops.watched():
                yield Running(port, metrics_port)
        finally:
            await health.leave()
            # A server that stops cancels what arrives until its goodbye has reached the clients, and what no handler
            # has begun (https://github.com/grpc/grpc/issues/41785): callers must have gone elsewhere before.
            await sleep(settings.linger_seconds)
            parts.audience.close()  # or the server would wait for watches, which have no end of their own
            await server.stop(DRAIN_SECONDS)
            await use_cases.drain()
            await parts.background.stop(loops)
            await parts.halls.flush()
            log.info("stopped")


def _loops(
    parts: Parts, clients: Clients, bus: BusCheck, watches: Watches, readiness: Readiness, keyring: Keyring | None
) -> dict[str, Coroutine[None, None, None]]:
    """All that goes on beside the requests, by name."""
    return {
        "readiness": readiness.run(),
        "bus": bus.run(),
        "leader": parts.background.leader.run(),
        "hints": parts.halls.run(),
        "watches": watches.run(),
        **({"issuer keys": keyring.run()} if keyring is not None else {}),
        # Over connections of their own: at the peak of a sale holds must end on time.
        **parts.work_of(parts.use_cases(clients.loops)),
        **parts.looks(readiness, keyring),
    }
