"""How a subcommand fails."""


class CommandError(Exception):
    """A failure to show in one line, without a traceback; the text says what to do.

    exit_status: of the process; 1 when a task failed, 2 when the command could not be run.
    """

    def __init__(self, message: str, exit_status: int = 2):
        super().__init__(message)
        self.exit_status = exit_status
