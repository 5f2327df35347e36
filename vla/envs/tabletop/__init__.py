"""A simulated Franka at a table: scene, tasks, success checks and a scripted expert (MuJoCo)."""
