"""The ledger's schema as a sequence of changes, run by the ledger when it is opened."""
