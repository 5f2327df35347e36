"""t-SNE, and what enters the action head of the shipped kinds of policy."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from tiny_checkpoint import save_tiny_checkpoint
from tiny_robovlm import observation, tiny

from vla.evaluation.tsne import tsne
from vla.policies.policy import Policy


def nearest(points: np.ndarray) -> np.ndarray:
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    return distances.argmin(axis=1)


def test_groups_stay_groups_and_nothing_becomes_none():
    generator = np.random.default_rng(0)
    labels = np.repeat(range(6), 15)
    vectors = 3 * generator.normal(size=(6, 64))[labels] + generator.normal(size=(90, 64))
    points = tsne(vectors)
    assert points.shape == (90, 2) and np.isfinite(points).all()
    assert (labels[nearest(points)] == labels).all()
    centres = np.array([points[labels == label].mean(axis=0) for label in range(6)])
    spread = max(points[labels == label].std(axis=0).max() for label in range(6))
    assert cdist(centres, centres)[~np.eye(6, dtype=bool)].min() > 5 * spread
    np.testing.assert_array_equal(tsne(vectors), points)
    noise = tsne(generator.normal(size=(90, 64)))
    assert (labels[nearest(noise)] == labels).mean() < 0.45, "chance is 1 in 6"


def test_neighbours_on_a_line_stay_neighbours():
    along = np.linspace(0, 1, 40)
    vectors = np.outer(along, np.random.default_rng(1).normal(size=8))
    assert np.abs(nearest(tsne(vectors, perplexity=5)) - np.arange(40)).max() <= 2


@pytest.mark.parametrize(
    "vectors", [np.zeros((4, 3)), np.zeros(10), np.full((10, 2), np.nan)], ids=str
)
def test_what_is_no_set_of_vectors_is_refused(vectors):
    with pytest.raises(ValueError, match="t-SNE takes 5 finite vectors"):
        tsne(vectors)
    assert np.isfinite(tsne(np.ones((5, 3)))).all(), "equal ones"


def test_a_policy_of_two_parts_shows_its_latent_action(checkpoint):
    policy = Policy.from_pretrained(checkpoint)
    assert policy.head_input() is None, "before it has acted"
    seen = observation(1)
    tokens = []
    for words in ("move left", "move right"):
        policy.reset(words, seed=0)
        policy.chunk(seen.images, seen.state)
        tokens.append(policy.head_input())
    assert tokens[0].shape == policy.features.latent_shape
    assert np.abs(tokens[0] - tokens[1]).max() > 0


@pytest.mark.parametrize(("layout", "shows"), [("policy_head", True), ("discrete", False)])
def test_a_policy_of_one_part_shows_its_learned_tokens_where_it_has_such(tmp_path, layout, shows):
    policy = Policy.from_pretrained(save_tiny_checkpoint(tmp_path / "tiny", config=tiny(layout)))
    seen = observation(1)
    policy.chunk(seen.images, seen.state)
    tokens = policy.head_input()
    assert (tokens is not None) == shows
    if shows:
        assert tokens.shape == policy.features.token_shape
