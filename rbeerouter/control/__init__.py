"""Background loops that write what they learn into `core.fleet`. They run off the hot path, with aiohttp."""
