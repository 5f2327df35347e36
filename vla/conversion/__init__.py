"""Released weights of other code into our checkpoint folders."""
