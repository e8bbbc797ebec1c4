"""The fault worker of scripts/faulting, as tests use it.

Called by tests, in their own event loop: `async with FaultWorker() as worker`. It must not add anything.
"""

from scripts.faulting.names import BEHAVIOURS, find
from scripts.faulting.parts import Behaviour
from scripts.faulting.request_reader import MalformedRequest
from scripts.faulting.worker import Choice, Connection, FaultWorker, Request

__all__ = ["BEHAVIOURS", "Behaviour", "Choice", "Connection", "FaultWorker", "MalformedRequest", "Request", "find"]
