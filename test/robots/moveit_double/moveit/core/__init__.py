"""As moveit_py's own: robot states."""
