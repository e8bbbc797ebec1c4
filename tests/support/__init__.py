"""What tests stand on: misbehaving and real workers, a raw HTTP client, and a way to run async tests.

Called by the tests only. Nothing here may import rbeerouter, so that a fault in the daemon cannot hide behind code of
its own.
"""
