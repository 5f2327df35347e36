"""rosbag2: bags read, written, repaired and turned into data sets, without ROS."""
