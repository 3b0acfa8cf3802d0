"""What a process of Servery stands on: clock and dice, services, settings, logs, the ASGI server."""
