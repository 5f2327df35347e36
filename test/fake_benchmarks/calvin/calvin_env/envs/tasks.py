"""Tasks that are done when the tool has gone 10 cm along an axis since their start."""

from functools import partial


class Tasks:
    """The oracle of success, with CALVIN's own calls."""

    def __init__(self, tasks):
        self.tasks = {name: partial(self.moved, *arguments) for name, arguments in tasks.items()}

    @staticmethod
    def moved(axis, sign, start_info, end_info):
        start, end = (info["robot_info"]["tcp_pos"][axis] for info in (start_info, end_info))
        return sign * (end - start) > 0.0999

    def get_task_info_for_set(self, start_info, end_info, task_filter):
        return {
            name
            for name, function in self.tasks.items()
            if name in task_filter and function(start_info=start_info, end_info=end_info)
        }
