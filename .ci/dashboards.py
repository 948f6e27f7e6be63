"""Makes deploy/grafana/dashboards/*.json from deploy/grafana/dashboards.yaml, which says what its keys mean."""

import json
from pathlib import Path
from typing import Any

import yaml

GRAFANA = Path(__file__).parents[1] / "deploy" / "grafana"
WIDTH, HEIGHT = 24, 8
LINE = 120
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECTIONS = {
    "$where": 'namespace=~"$namespace", job="$job", instance=~"$instance"',
    "$service": 'namespace=~"$namespace", job="$job"',
}


def dashboard(name: str, told: dict[str, Any]) -> dict[str, Any]:
    """One that Grafana takes from a file; all of them link to each other and share their variables."""
    link = {"type": "dashboards", "tags": ["reservation"], "asDropdown": False, "includeVars": True, "keepTime": True}
    return {
        "uid": f"reservation-{name}",
        "title": f"Reservation: {told['title']}",
        "tags": ["reservation"],
        "schemaVersion": 41,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "links": [link | {"title": "", "icon": "external link", "targetBlank": False}],
        "templating": {"list": variables()},
        "panels": panels(told["panels"]),
    }


def variables() -> list[dict[str, Any]]:
    ours = {"type": "query", "datasource": SOURCE, "refresh": 2, "sort": 1}
    several = {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    asked = {
        "namespace": ("label_values(reservation_ready, namespace)", several),
        "job": ('label_values(reservation_ready{namespace=~"$namespace"}, job)', {}),
        "instance": ('label_values(reservation_ready{namespace=~"$namespace", job="$job"}, instance)', several),
    }
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        *(ours | {"name": name, "query": query} | how for name, (query, how) in asked.items()),
    ]


def panels(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In rows from left to right, each panel as wide as it says, or a third."""
    made, x, y = [], 0, 0
    for number, each in enumerate(told, 1):
        width = each.get("width", WIDTH // 3)
        height = HEIGHT // 2 if width < WIDTH // 3 else HEIGHT
        if x + width > WIDTH:
            x, y = 0, y + made[-1]["gridPos"]["h"]
        made.append(panel(number, each, {"x": x, "y": y, "w": width, "h": height}))
        x += width
    return made


def panel(number: int, told: dict[str, Any], place: dict[str, int]) -> dict[str, Any]:
    kind = told.get("kind", "timeseries")
    made = {"id": number, "type": kind, "title": told["title"], "gridPos": place, "datasource": SOURCE}
    if "about" in told:
        made["description"] = told["about"]
    made["fieldConfig"] = {"defaults": field(told, kind), "overrides": []}
    made["targets"] = [target(f"Q{count}", *each) for count, each in enumerate(told["queries"].items(), 1)]
    return made


def field(told: dict[str, Any], kind: str) -> dict[str, Any]:
    made: dict[str, Any] = {"unit": told["unit"], "min": 0} if told["unit"] != "s" else {"unit": "s"}
    if "goal" in told:
        low, high = ("red", "green") if told.get("at least") else ("green", "red")
        steps = [{"color": low, "value": None}, {"color": high, "value": told["goal"]}]
        made["thresholds"] = {"mode": "absolute", "steps": steps}
        if kind == "timeseries":
            made["custom"] = {"thresholdsStyle": {"mode": "line"}}
    return made


def target(ref: str, legend: str, query: str) -> dict[str, Any]:
    for short, selection in SELECTIONS.items():
        query = query.replace(short, selection)
    return {"refId": ref, "expr": query, "legendFormat": legend}


def text(value: Any, indent: int = 0) -> str:
    """JSON in which whatever fits into a line is on one."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= LINE or not isinstance(value, dict | list):
        return flat
    inner = " " * (indent + 1)
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {text(each, indent + 1)}" for key, each in value.items()]
        return "{\n" + ",\n".join(inner + part for part in parts) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(inner + text(each, indent + 1) for each in value) + "\n" + " " * indent + "]"


if __name__ == "__main__":
    made = yaml.safe_load((GRAFANA / "dashboards.yaml").read_text(encoding="utf-8"))
    for file in (GRAFANA / "dashboards").glob("*.json"):
        file.unlink()
    for name, told in made.items():
        file = GRAFANA / "dashboards" / f"{name}.json"
        file.write_text(text(dashboard(name, told)) + "\n", encoding="utf-8")
