"""What runs beside the requests: loops that tell `core.fleet` what they learn, and processes that hold a script."""
