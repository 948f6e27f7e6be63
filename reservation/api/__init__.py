"""The gRPC edge: bytes to commands, answers and refusals to bytes."""
