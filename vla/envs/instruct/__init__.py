"""Eighty tasks at the table in the words that people use, after SimplerEnv-Instruct."""
