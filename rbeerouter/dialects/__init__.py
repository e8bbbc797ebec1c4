"""What clients and workers say on the wire, as bytes in and our types out. No I/O here.

`surfaces` is the table of all paths for clients, each with the `Dialect` of its protocol: `openai`, `anthropic` and
`ollama`. `wire.listener` and `wire.exchange` ask only that table.
"""
