"""How commands print."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(markup=False)  # names and paths may hold brackets


def table_of(title: str, *columns: str) -> Table:
    """A table without a frame; long cells are folded."""
    table = Table(title=title, title_justify="left", show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_json(value: Any) -> int:
    """Print a value as JSON, and nothing else; the exit status 0."""
    print(json.dumps(value, indent=2))
    return 0
