"""`reservation`, and `python -m reservation`."""

import gc
import os


def main() -> None:
    # The children of `local` are programs of their own; gRPC need not survive the fork, nor warn of it.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # Modules are for good, so looking through them again and again while they come, and ever after, finds nothing: it
    # would take a quarter of the start, and later stop the event loop for tens of milliseconds at a time.
    gc.disable()
    from reservation.cli import commands

    gc.freeze()
    gc.enable()
    commands()


if __name__ == "__main__":
    main()
