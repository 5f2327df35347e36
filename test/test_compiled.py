"""Compiled inference. What needs no GPU: results outlive a graph that writes into them again."""

import torch

from vla.policies.instructvla.action_expert import ExpertContext
from vla.policies.instructvla.compiled import keeping


def test_results_are_kept_from_the_next_replay():
    # A CUDA graph writes all its results into the same memory.
    memory = torch.zeros(1, 3)

    def replay(value, layers):
        memory.fill_(value)
        return ExpertContext(memory, [(memory, memory)] if layers else None)

    for layers in (True, False):
        first, second = (keeping(replay)(value, layers=layers) for value in (1.0, 2.0))
        assert first.tokens.tolist() == [[1.0] * 3] and second.tokens.tolist() == [[2.0] * 3]
        assert (first.layers is not None) == layers
        for kept in first.layers or []:
            assert all(part.tolist() == [[1.0] * 3] for part in kept)

    latent = keeping(lambda value: memory.fill_(value))
    first, second = latent(5.0), latent(6.0)
    assert first.tolist() == [[5.0] * 3] and second.tolist() == [[6.0] * 3]
