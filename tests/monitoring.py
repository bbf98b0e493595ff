"""What deploy/ asks of Prometheus: the queries of the dashboard and of the alert rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "gateway.json"
_COMPARISON = re.compile(r" (==|>|<) (?=[0-9.]+(?: or |$))")
_METRIC = re.compile(r"\b(?:gateway|process|tgi)_[a-z_]+")


def panels() -> list[dict[str, Any]]:
    """Those that draw something."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def dashboard_queries(interval: str = "1m") -> dict[str, str]:
    """By panel and legend, with `interval` where Grafana would put one that fits the screen."""
    return {
        f"{panel['title']}: {target['legendFormat']}": target["expr"].replace("$__rate_interval", interval)
        for panel in panels()
        for target in panel["targets"]
    }


def alert_queries() -> dict[str, str]:
    """By alert: 1 where it would fire and 0 where it would not, instead of nothing."""
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: _COMPARISON.sub(r" \1 bool ", rule["expr"]) for group in groups for rule in group["rules"]}


def metrics_in(query: str) -> set[str]:
    """The names of the metrics in a query; those of a histogram without their ending."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in _METRIC.findall(query)}
