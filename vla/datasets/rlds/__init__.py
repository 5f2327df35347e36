"""RLDS data sets, as `tfds` writes them: read without tensorflow, and converted to LeRobot's."""
