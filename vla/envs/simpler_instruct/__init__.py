"""SimplerEnv-Instruct, tasks of SimplerEnv's robots that take reading or reasoning."""
