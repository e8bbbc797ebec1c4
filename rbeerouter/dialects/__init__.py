"""What clients and workers say on the wire, as bytes in and our types out. No I/O here.

Today one surface: `openai`. A further one is a module with the same functions and its paths in `openai.ENDPOINTS`'s
place of a table; `wire.exchange` and `wire.listener` are its only callers.
"""
