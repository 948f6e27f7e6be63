"""The floor of any grpc.aio service: raw-bytes handlers that give every call the same ready answer.

`python -m tests.bench.echo PORT ANSWER`, the answer in hex, prints the port it bound. Envoy finds it healthy.
"""

import asyncio
import sys
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health_pb2

_HEALTH = "/grpc.health.v1.Health/Check"
_SERVING: bytes = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()


class _Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, answer: bytes) -> None:
        async def echo(_raw: bytes, context: Any) -> bytes:
            await context.send_initial_metadata((("x-http-status", "201"),))
            return answer

        async def serving(_raw: bytes, _context: Any) -> bytes:
            return _SERVING

        self._echo = grpc.unary_unary_rpc_method_handler(echo)
        self._health = grpc.unary_unary_rpc_method_handler(serving)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._health if handler_call_details.method == _HEALTH else self._echo


async def serve(port: int, answer: bytes) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Echo(answer),))
    print(server.add_insecure_port(f"127.0.0.1:{port}"), flush=True)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), bytes.fromhex(sys.argv[2])))
