"""`reservation`, and `python -m reservation`."""

import os


def main() -> None:
    # The children of `local` are programs of their own; gRPC need not survive the fork, nor warn of it.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from reservation.cli import commands

    commands()


if __name__ == "__main__":
    main()
