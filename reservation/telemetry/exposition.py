"""The listener for operators: /metrics and /info. It has a thread of its own, so that a scrape holds up no request."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

HOST = "127.0.0.1"
"""Loopback: who is allowed to look comes through Envoy."""

_STOP_LOOKS_SECONDS = 0.05

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Quiet(WSGIRequestHandler):
    timeout = 5  # of a client that says nothing

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Scrapes are not worth a line."""


@asynccontextmanager
async def serving(registry: CollectorRegistry, info: Mapping[str, str], *, port: int) -> AsyncIterator[int]:
    """Answers inside the block, on the port that is yielded (0: any free one). Raises OSError if it is in use."""
    server = make_server(HOST, port, _application(registry, info), ThreadingWSGIServer, _Quiet)
    thread = Thread(target=server.serve_forever, args=(_STOP_LOOKS_SECONDS,), name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


def _application(registry: CollectorRegistry, info: Mapping[str, str]) -> Wsgi:
    metrics: Wsgi = make_wsgi_app(registry)
    told = json.dumps(dict(info)).encode()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start_response)
            case "/info":
                start_response("200 OK", [("Content-Type", "application/json")])
                return [told]
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b""]

    return application
