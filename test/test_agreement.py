"""Whether the halves of a policy agree after an adapter was asked for."""

from vla.control.agreement import Answer, common_checkpoint, disagreement, failures, to_take_back

LOADED = Answer(True, "loaded", "base+new")
REFUSED = Answer(False, "it is no adapter", "base")
SILENT = Answer(False, "no answer within 60 s", answered=False)
DEAD = Answer(False, "it died", answered=False, gone=True)
UNCONFIGURED = Answer(False, "configure the node first")


def test_both_loaded():
    answers = {"reasoning": LOADED, "action_expert": LOADED}
    assert failures(answers) == disagreement(answers) == ""
    assert common_checkpoint(answers) == "base+new"


def test_a_half_that_loaded_goes_back_when_the_other_one_refused():
    answers = {"reasoning": LOADED, "action_expert": REFUSED}
    assert failures(answers) == "action_expert: it is no adapter"
    assert to_take_back(answers) == ["reasoning"]
    assert disagreement(answers) == "reasoning has base+new and action_expert has base"
    assert common_checkpoint(answers) == ""
    answers["reasoning"] = Answer(True, "went back", "base")
    assert disagreement(answers) == "" and common_checkpoint(answers) == "base"


def test_one_reason_of_both_is_said_once():
    answers = {"reasoning": REFUSED, "action_expert": REFUSED}
    assert failures(answers) == "reasoning and action_expert: it is no adapter"
    assert to_take_back(answers) == [] and disagreement(answers) == ""


def test_two_adapters_in_one_folder_are_noticed():
    answers = {"reasoning": LOADED, "action_expert": Answer(True, "loaded", "base+newer")}
    assert failures(answers) == "" and "base+newer" in disagreement(answers)
    assert to_take_back(answers) == ["reasoning", "action_expert"]


def test_a_silent_half_may_have_either_and_a_dead_one_has_none():
    silent = {"reasoning": LOADED, "action_expert": SILENT}
    assert to_take_back(silent) == ["reasoning", "action_expert"]
    assert "which weights action_expert has" in disagreement(silent)
    dead = {"reasoning": LOADED, "action_expert": DEAD}
    assert to_take_back(dead) == ["reasoning"] and disagreement(dead) == ""


def test_a_half_without_a_model_has_nothing_to_agree_on():
    answers = {"reasoning": LOADED, "action_expert": UNCONFIGURED}
    assert failures(answers) and to_take_back(answers) == ["reasoning"]
    assert disagreement(answers) == "" and common_checkpoint(answers) == "base+new"
