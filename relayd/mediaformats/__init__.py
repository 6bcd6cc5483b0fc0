"""What each format says of its own end: one module for each family, asked by `relayd.mediatype`.

Promises: every module reads through a `Content`, which bounds what one file may cost. What a format does not tell, or
what costs too much to find out, is no damage.
"""
