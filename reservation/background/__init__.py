"""Loops that run beside the requests, each apart from the bounded pass that it repeats."""
