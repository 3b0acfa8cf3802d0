"""The gRPC interfaces, compiled by `make proto` into modules with a descriptor pool of their own.

So a program that has a client's copy of the same interfaces can have ours too: one pool holds a name only once.
"""
