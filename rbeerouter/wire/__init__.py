"""The data plane: the only package that moves inference bytes (asyncio, uvloop, httptools).

Two connections and a story: `listener` is the client's side, `upstream` the worker's, `exchange` is one request from
its decision to its last byte. A few Python steps run per request and per read, none per byte; there is no task,
queue or JSON decode per chunk. `relay` hands a short table of public paths to the control plane.
"""
