"""The nodes that run a policy: reasoning and action_expert."""
