"""The configuration files of the mock workers and of the routers, with @MARKS@ to fill in.

Called by workers.py and routers.py. The marks are not $NAMES, which nginx uses itself.
"""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent


def fill(template: str, **values: object) -> str:
    """The text of TEMPLATE with each @NAME@ replaced by its value; none may be left."""
    text = (FOLDER / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    left = re.findall(r"@[A-Z_]+@", text)
    if left:
        raise ValueError(f"{template}: no value for {', '.join(sorted(set(left)))}")
    return text
