"""The control plane (Starlette on Hypercorn) and the daemon that builds everything once and owns the signals."""
