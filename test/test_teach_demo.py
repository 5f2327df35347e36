"""The whole circle with a tiny policy: demonstrations through the graph, an adapter in it."""

from __future__ import annotations

import json

import pytest

from vla.bags.reader import read_metadata, validate_bag
from vla_cli.parser import main

RECIPE = """\
held_out_share: 0.5
train: {preset: test, batch_size: 6, steps: 24, validate_every: 12, validation_batches: 1,
  learning_rate: 0.01, adapter: {rank: 2, alpha: 4}}
"""


@pytest.mark.nodes
def test_two_demonstrations_become_an_adapter_in_the_running_graph(tmp_path, checkpoint):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    output = tmp_path / "teach"
    arguments = ["teach-demo", "--checkpoint", str(checkpoint), "--output", str(output),
                 "--config", str(tmp_path / "recipe.yaml"), "--demonstrations", "2",
                 "--seeds", "0:1", "--old-seeds", "0:1", "--trials", "1",
                 "--time-limit", "1"]  # fmt: skip
    assert main(arguments) == 0
    report = json.loads((tmp_path / "teach.json").read_text())
    assert len(report["demonstrations"]) == 2
    for episode in report["demonstrations"]:
        bag = output / episode["bag"]
        validate_bag(bag)
        metadata = read_metadata(bag).custom_data
        assert metadata["instruction"] == episode["instruction"]
        assert metadata["outcome"] == "success"
    assert report["finetune"]["data"]["episodes"] == 1
    base = report["finetune"]["base"]
    graph = report["graph"]
    assert graph["checkpoint_id"].startswith(f"{base}+")
    assert graph["after_dropping"] == base
    taught = read_metadata(output / graph["after_loading"][0]["bag"]).custom_data
    assert taught["checkpoint_id"] in ("", graph["checkpoint_id"])
    assert report["families"].keys() >= {"store", "pick", "place", "open_drawer", "close_drawer"}

    def times() -> dict:
        return {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}

    before = times()
    assert main(arguments) == 0  # Everything is kept.
    assert times() == before
