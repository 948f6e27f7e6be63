"""The floor of any grpc.aio service: a raw-bytes handler that answers ready-made bytes of the size asked for.

`python -m tests.bench.echo PORT BYTES` prints the port it bound.
"""

import asyncio
import sys
from typing import Any

import grpc
import uvloop


async def serve(port: int, size: int) -> None:
    answer = bytes(size)

    async def echo(_raw: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("x-http-status", "201"),))
        return answer

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("Echo", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    server.add_generic_rpc_handlers((handler,))
    print(server.add_insecure_port(f"127.0.0.1:{port}"), flush=True)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
