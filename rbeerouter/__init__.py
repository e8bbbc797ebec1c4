"""rbeerouter: a Lua script chooses the worker for every LLM request.

The map, in the order a request meets the packages:

- `wire`      the data plane: parses HTTP on both sides and moves the bytes; nothing else touches inference bytes
- `dialects`  what clients say: request bytes in, our types out, errors in the client's own shape
- `core`      the types, what is known of the workers (`fleet`), and the life of a request (`dispatch`); pure
- `routing`   who gets the request: the Lua script, then the strategy; the only code that decides; pure
- `record`    a finished request becomes one line of routing.log and some counters
- `workbench` what a person does with a script before it is live: check, test, explain
- `sim`       the policy lab: the same core and script under a simulated clock, on made-up, recorded or public traffic
- `control`   what runs beside the requests: the probes, and the process that an isolated script has to itself
- `server`    the control plane (Starlette on Hypercorn) and the daemon that builds everything and owns the signals
- `config`    TOML text becomes one frozen, validated `Config`
- `cli`       the commands: serve, reload, routing check and test, explain, param, demo
- `demo`      fake workers, and the tour that `rbeerouter demo` gives

`docs/architecture.md` follows one request through these files.
"""

__version__ = "0.1.0"
