"""The expressions of docs/grafana.json and docs/prometheus-alerts.yml, as Prometheus can be asked them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

DOCS = Path(__file__).resolve().parents[4] / "docs"


def panels() -> dict[str, str]:
    """Return the dashboard's expressions by their panels' titles and letters, for all models and 5 s."""
    document = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
    found = {}
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", "5s")
            text = re.sub(r"\$(instance|model|version)\b", ".*", text)
            assert "$" not in text, text
            found[f"{panel['title']} {target['refId']}"] = text
    return found


def alerts() -> dict[str, str]:
    """Return the alerts' expressions by their names."""
    document = yaml.safe_load((DOCS / "prometheus-alerts.yml").read_text(encoding="utf-8"))
    return {rule["alert"]: rule["expr"] for group in document["groups"] for rule in group["rules"]}


def as_number(alert: str) -> str:
    """Return an alert's expression as one that has a value also where it does not fire, 0 or 1."""
    found, count = re.subn(r" ([<>]) (?=[0-9.]+$)", r" \1 bool ", alert)
    assert count == 1, alert
    return found
