"""MetaWorld's names, with tasks in which the hand has to reach a goal and close its fingers."""
