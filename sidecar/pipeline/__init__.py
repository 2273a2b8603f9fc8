"""Builds every room and joins them along the line that data flows: the only package that imports all rooms.

`observer` is the whole; each other module builds one part of it and is handed the parts that stand before it. Nothing
is imported here, because a replay needs only some of the rooms.
"""
