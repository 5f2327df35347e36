"""SimplerEnv, copies of the Google robot's and the WidowX's real tasks, in its own environment."""
