"""What the hub's own pages show of machines: for each student, and for admins of all of them.

Owns the pages, their templates, which extend JupyterHub's, and the JSON beside them. Must not call
EC2: all of it is read from the fleet's one listing and from the hub's database.
"""

from __future__ import annotations

from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"
