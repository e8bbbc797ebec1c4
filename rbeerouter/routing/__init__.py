"""Who gets the request: the Lua script, then a strategy. Pure; the only package that decides."""
