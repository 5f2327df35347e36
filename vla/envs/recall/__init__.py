"""A benchmark that only a policy with a memory can do better than by chance."""
