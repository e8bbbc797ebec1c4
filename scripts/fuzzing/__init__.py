"""Makes up routing scripts and looks for what must never happen. scripts/fuzz runs it."""
