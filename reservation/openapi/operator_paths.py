"""The paths that are for operators. Envoy answers them itself, or turns the answer of another protocol into this one,
so they stand here by hand."""

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

TAG: Json = {"name": "Operations", "description": "For probes and people who run the service. They take no token."}


def _json(description: str, schema: Json, example: Json | None = None) -> Json:
    content: Json = {"schema": schema} | ({"example": example} if example else {})
    return {"description": description, "content": {"application/json": content}}


def _get(operation: str, summary: str, responses: Mapping[str, Json]) -> Json:
    return {
        "get": {
            "tags": [TAG["name"]],
            "summary": summary,
            "operationId": operation,
            "security": [],
            "responses": responses,
        }
    }


def _status(value: str) -> Json:
    schema = {"type": "object", "properties": {"status": {"type": "string", "const": value}}, "required": ["status"]}
    return _json(f"It is {value}.", schema, {"status": value})


def _health(operation: str, summary: str) -> Json:
    return _get(operation, summary, {"200": _status("UP"), "503": _status("DOWN")})


_SAMPLE = "# TYPE outbox_lag_seconds gauge\noutbox_lag_seconds 0.0\n"
_METRICS: Json = {
    "description": "In Prometheus's text format.",
    "content": {"text/plain": {"schema": {"type": "string"}, "example": _SAMPLE}},
}
_VERSIONS: Json = {name: {"type": "string"} for name in ("version", "commit")}
_INFO = _json(
    "What runs.",
    {"type": "object", "properties": _VERSIONS, "required": [*_VERSIONS]},
    {"version": "0.1.0", "commit": "unknown"},
)

PATHS: Mapping[str, Json] = {
    "/health": _health("health", "Whether the service takes requests"),
    "/actuator/health": _health("actuatorHealth", "Whether the service takes requests"),
    "/actuator/health/liveness": _health("liveness", "Whether the process works"),
    "/actuator/health/readiness": _health("readiness", "Whether the service takes requests"),
    "/actuator/prometheus": _get("prometheus", "What is measured, for Prometheus to scrape", {"200": _METRICS}),
    "/actuator/info": _get("info", "Which version of the service runs", {"200": _INFO}),
    "/v3/api-docs": _get("apiDocs", "This document", {"200": _json("OpenAPI 3.1.", {"type": "object"})}),
}
