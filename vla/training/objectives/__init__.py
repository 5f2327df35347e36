"""Training objectives: each file says what one stage of training learns, from what, and how."""
