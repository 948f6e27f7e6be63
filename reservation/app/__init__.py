"""The composition root: settings become a running service. Only this package builds objects."""

from reservation.app.connections import aws_config_of, remote_inventory, tables_of
from reservation.app.entrances import edge_config_of
from reservation.app.errors import StartError
from reservation.app.life import DRAIN_SECONDS, Running, running

__all__ = [
    "DRAIN_SECONDS",
    "Running",
    "StartError",
    "aws_config_of",
    "edge_config_of",
    "remote_inventory",
    "running",
    "tables_of",
]
