"""Stands in for moveit_py, which no package index has: the same calls, answers and waits.

`execute` moves the arm by a real trajectory over DDS, through the same controller as MoveIt would,
and blocks; `plan` keeps Python's lock; a goal that is not taken is answered by False and leaves the
one before in force. The group fr3_arm has the states ready, corner and far, for which planning
takes a second. A pose above 1 m has no plan, one below 0 collides.
"""
