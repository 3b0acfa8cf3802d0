"""How the gateway calls a Version."""
