"""Mistakes that a type checker must find: each line ends in the code of its error."""

from collections.abc import Sequence

from agentprm import FaissStore, LanguageModel, ProcessRewardModel, SearchBudget, Step, create_reasoning_graph
from agentprm.lm import Completion, Prompt, SamplingParams
from agentprm.nodes import Retrieve, ScoreSteps

Prompt("Hello")  # E: arg-type
SamplingParams(stop="\n")  # E: arg-type
SamplingParams(heat=1.0)  # E: call-arg
SearchBudget(model_calls="many")  # E: arg-type


def misuse(model: LanguageModel, store: FaissStore, reward: ProcessRewardModel, step: Step) -> None:
    create_reasoning_graph(model, store, accept="sometimes")  # E: arg-type
    create_reasoning_graph(store, model)  # E: arg-type
    Retrieve("index")  # E: arg-type
    ScoreSteps(model)  # E: arg-type
    model.sample("Hello")  # E: arg-type
    reward.score("Who?", [["a thought"]])  # E: list-item
    step["scores"]  # E: typeddict-item
    step["status"] = "done"  # E: typeddict-item
    step["score"] + 1  # E: operator
    LanguageModel()  # E: abstract


class Wrong(LanguageModel):
    def sample(self, prompts: Sequence[str], n: int = 1) -> list[list[Completion]]:  # E: override
        return []
