"""Stands in for moveit_py, which no package index has: the same calls, the same outcomes.

`execute` moves the arm by a real trajectory over DDS, through the same controller as MoveIt would.
The targets "home" and "corner" are known; a pose above 1 m has no plan; "abort" fails on the way.
"""
