"""relayd: a mail transfer agent for camera files and sensor messages.

Read `app.py` first; the chapter "How it works" in README.md draws the rooms.
"""

__version__ = "0.1.0"
