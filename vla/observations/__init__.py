"""From stamped messages to observations, live and from bags, by the same code and without ROS."""
