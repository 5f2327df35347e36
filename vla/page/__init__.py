"""The operator page: its server, who may use it, and what it shows. No ROS."""
