"""Own language models, rewards, value functions and vector indexes behind the contracts."""

from collections.abc import Sequence
from typing import Any, assert_type

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel

from agentprm import Grounding, LanguageModel, ProcessRewardModel, SelfJudgement, as_language_model
from agentprm.lm import Capabilities, Completion, Prompt, SamplingParams
from agentprm.nodes import LookAhead, ScoreSteps
from agentprm.retrievers import VectorIndex
from agentprm.retrievers.vectors import FloatArray
from agentprm.rewards import PrefixReward, Trajectory
from agentprm.search import PAV, TD, Plain, Snell, ValueFunction


class Echo(LanguageModel):
    capabilities = Capabilities(n=True)

    def sample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        return [[Completion(p.messages[-1][1], tokens=1, finish_reason="stop")] * n for p in prompts]


class Short(ProcessRewardModel):
    space = "logit"

    def score(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        return [[-float(len(step["thought"])) for step in trajectory] for trajectory in trajectories]


class Cached(PrefixReward):
    def score_prefixes(self, question: str, prefixes: Sequence[Trajectory]) -> list[float]:
        return [1.0 for _ in prefixes]


class Best:
    """A value function needs no base class."""

    horizon = 2

    def stop(self, scores: Sequence[float]) -> bool:
        return max(scores) > 0.9

    def value(self, scores: Sequence[float], parent: float | None = None) -> float:
        return max(scores)


class Index:
    """Nor does a vector index."""

    def search_vectors(
        self, vectors: FloatArray, k: int, filter: Any = None
    ) -> list[list[tuple[Document, float]]]:
        return [[] for _ in vectors]

    def vectors_for(self, ids: Sequence[str]) -> FloatArray:
        raise NotImplementedError

    def embed_query(self, text: str) -> FloatArray:
        raise NotImplementedError


def values() -> list[ValueFunction]:
    return [Plain(), TD(), Snell(), PAV(), Best()]


def use(chat: BaseChatModel) -> None:
    model = as_language_model(chat)
    assert_type(model, LanguageModel)
    assert_type(model.sample([Prompt((("user", "Hello"),))], 2)[0][0].logprob, float | None)
    rewards: list[ProcessRewardModel] = [Short(), Cached(), Grounding(model), SelfJudgement(model)]
    scored = rewards[0].score("Who?", [[{"query": "", "passages": [], "thought": "", "final_answer": None}]])
    assert_type(scored, list[list[float]])
    index: VectorIndex = Index()
    assert_type(index.embed_query("Who?"), FloatArray)
    LookAhead([ScoreSteps(rewards[0])], value=Best())


async def use_on_a_loop(model: LanguageModel, reward: ProcessRewardModel) -> None:
    assert_type(await model.asample([], 1), list[list[Completion]])
    assert_type(await reward.ascore("Who?", []), list[list[float]])
