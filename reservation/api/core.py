"""grpc.aio's server, but for calls of methods that there are not.

It would read the path of such a call as UTF-8 and, where that fails, stop serving for good: one request with such a
path, by anybody, ends the process's work. So the methods that there are get registered with gRPC's core, which compares
bytes, and every other call is answered before anything reads its path.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NoReturn

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server


class Server(_server.Server):  # type: ignore[misc]  # it comes without types
    """`options`: channel arguments. `max_rpcs`: how many calls may be open; None: any number."""

    def __init__(self, options: list[tuple[str, Any]], max_rpcs: int | None) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _Core(self._loop, None, (), (), options, max_rpcs)

    def register(self, paths: Iterable[str]) -> None:
        """The paths of all methods, as in "/package.Service/Method". Their handlers are found as ever."""
        self._server.add_registered_method_handlers(dict.fromkeys(paths))


class _Core(cygrpc.AioServer):  # type: ignore[misc]  # it comes without types
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._refusals: set[asyncio.Task[None]] = set()

    async def _request_call(self) -> NoReturn:
        """What grpc.aio calls to get a call of a method that is not registered; it gets none."""
        while True:
            refusal = asyncio.create_task(_refuse(await super()._request_call()))
            self._refusals.add(refusal)
            refusal.add_done_callback(self._refusals.discard)


async def _refuse(call: Any) -> None:
    context = cygrpc._ServicerContext(call, None, None, asyncio.get_running_loop())
    with suppress(grpc.aio.BaseError):  # AbortError, always; InternalError if the caller has left
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
