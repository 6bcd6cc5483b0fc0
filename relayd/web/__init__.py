"""The control API over HTTP: `place` finds and makes the socket, `control` serves the routes of `api` on it.

Promises: a thin coat over `operations`; what it does is decided there. Importing the room itself is free.
"""
