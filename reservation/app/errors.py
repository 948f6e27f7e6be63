"""What stops a start."""


class StartError(Exception):
    """The service cannot start; the text says what to change."""
