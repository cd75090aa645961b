"""Search over reasoning steps, guided by a process reward model (the loop of ReARTeR)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from langchain_core.documents.compressor import BaseDocumentCompressor
from langchain_core.language_models import BaseChatModel
from langgraph.graph import END, StateGraph

from agentprm.budget import SearchBudget
from agentprm.errors import ConfigurationError
from agentprm.graphs.state import (
    DeltaGraphState,
    DeltaSearched,
    ReasoningGraphState,
    Searched,
    answering,
    condensing,
    graph_in_a_row,
    passages_to,
)
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes import (
    AnswerFromSteps,
    BeginSteps,
    CommitExperience,
    CompleteSteps,
    FollowPlan,
    LookAhead,
    PlanQuestion,
    ProposeSteps,
    RecallExperience,
    RecallSteps,
    RefineStep,
    RejectEarly,
    RerankSteps,
    RetrieverLike,
    RetrieveSteps,
    ScoreSteps,
    SelectSteps,
)
from agentprm.nodes.answer import ResponseFormat
from agentprm.nodes.node import begin_search
from agentprm.nodes.plan_question import Planner
from agentprm.nodes.rerank import pairwise_compressor
from agentprm.nodes.select_steps import after_selection
from agentprm.nodes.settings import Accept, checked_setting
from agentprm.prompts import PROMPTS, Prompts
from agentprm.questions.decomposing import decompose
from agentprm.readers.base import Reader
from agentprm.rerank import Comparator
from agentprm.rewards import ProcessRewardModel, ReaderGrounding, as_reward, default_reward
from agentprm.search import PAV, Greedy, Plain, Strategy, Tree, ValueFunction
from agentprm.search.named import strategy_called, value_called

__all__ = ["create_reasoning_graph"]

_log = logging.getLogger(__name__)


def create_reasoning_graph(
    model: LanguageModel | BaseChatModel | str,
    retriever: RetrieverLike,
    reward: ProcessRewardModel | Callable[..., Any] | None = None,
    *,
    mode: Literal["step", "plan"] | None = None,
    reader: Reader | None = None,
    planner: Planner = decompose,
    candidates: int | None = None,
    max_steps: int | None = None,
    min_steps: int = 1,
    k: int | None = None,
    passages: int | None = None,
    strategy: Strategy | str = "greedy",
    value: ValueFunction | str = "plain",
    query_reward: ProcessRewardModel | Callable[..., Any] | None = None,
    begin_tokens: int | None = None,
    keep: int = 2,
    human: bool = False,
    shallow: int = 3,
    recall: bool = False,
    experience: RecallExperience | bool = False,
    analogies: RecallSteps | bool = False,
    threshold: float | Literal["reward", "mode"] | None = "mode",
    accept: Accept = "if_better",
    explainer: LanguageModel | BaseChatModel | str | None = None,
    reranker: LanguageModel | BaseChatModel | Comparator | BaseDocumentCompressor | None = None,
    condense: LanguageModel | BaseChatModel | str | bool = False,
    temperature: float = 0.7,
    seed: int | None = 0,
    budget: SearchBudget | Mapping[str, Any] | None = None,
    deltas: bool = False,
    prompts: Prompts = PROMPTS,
    max_tokens: int = 48,
    form: str | None = None,
    language: str | None = None,
    response_format: ResponseFormat | None = None,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds (plan →) propose → retrieve → complete → score → (look ahead) → select, until answered.

    At each step `candidates` different steps are proposed, each with its own query, passages and
    finding. The reward model scores them, the value function looks ahead where it has a horizon, and
    the strategy says which to go on from: the best one, by default. If even the best of the siblings is at
    most `threshold`, it is criticised and refined once, and the refinement is kept only if it is better.

    In the mode `plan` the question is split once into sub-questions, which are then asked in their order,
    those that need nothing of each other side by side. In the mode `step` each step proposes what to ask
    next.

    Args:
        model: Proposes, reads and answers.
        retriever: Any LangChain retriever or vector store, or a function from a query to documents; a
            `FeedbackRetriever` for relevance feedback.
        reward: Scores steps; by default with a reader `ReaderGrounding`, else `Grounding` and `Relevance`
            fused, the training-free reward
            that told right steps from wrong ones best (`benchmarks/rewards.py`); with a `model` without
            log-likelihoods, as chat models are, its own verdict on each step. Functions are taken too, see
            `agentprm.rewards.FunctionReward`.
        mode: `step` or `plan`; by default a plan with a `reader`, unless `value` looks ahead or there are
            examples for proposals (`experience`, `analogies`).
        reader: Reads the findings off the passages in the place of `model`, which then writes only what
            cannot be quoted.
        planner: Splits the question in the mode `plan`: a function from a question to its sub-questions, by
            default by syntax (`agentprm.questions.decompose`), or a model; see `PlanQuestion`.
        candidates: Steps proposed at a time (M), 3 by default and in the paper; in the mode `plan` the
            findings of a reader for each sub-question that are scored, 1 by default where the strategy is
            greedy, and else 3.
        max_steps: Most steps of a path (T); 5 by default and in the paper, and 8 sub-questions of a plan.
        min_steps: Committed steps before a model that continues a prefix is led to conclude.
        k: Passages found for a step; by default as many as are read, and 10 with a reranker, which
            chooses among them.
        passages: Passages a step reads; 1 by default and in the paper, since small models read one much
            better than several, and 5 with a reader.
        strategy: Where the search goes on: `"greedy"`, `"best-of-n"`, `"majority"`, `"weighted"`, `"beam"`,
            `"dvts"`, `"uct"`, `"puct"`, `"ab-mcts"`, or one of `agentprm.search` with settings of your own.
        value: Value function: `"plain"`, a step's own score, by default; `"td"` is the paper's look-ahead,
            as long as scores rise by the reward's own `rise` if it is calibrated, `"td-code"` its authors'
            code's; `"snell"`, `"pav"`; or one of `agentprm.search`. Looking ahead costs two to three times
            as much, and the paper's own ablations find it the least valuable part; try it where the reward
            model is a trained one.
        query_reward: Early rejection: judges proposals by their queries alone, and only the best `keep` after
            each step are searched for and read; see `agentprm.nodes.RejectEarly`.
        begin_tokens: Early rejection by partial steps: of each finding so many tokens are written first,
            `reward` judges them, and only the best `keep` after each step are finished, each from its own
            tokens, and scored again. Needs a model that continues a prefix, and no `reader`.
        keep: Steps that survive it.
        human: Stop at each selection among several, by LangGraph's `interrupt`, and let a human say which
            candidates stay: resume with `Command(resume=id)` or a list of ids. Needs a checkpointer.
        shallow: Deepest steps that are looked ahead from; 3 in the paper.
        recall: Offer steps that are answered from what is known, without a search, and refinements that
            flip this flag of a step (as in the paper).
        experience: Show how similar questions went where steps are proposed, and keep how this one goes, in
            the store that the graph is compiled with: `True`, or a `RecallExperience` of your own.
        analogies: Also show steps of earlier questions that are analogous to the next one, anew at each
            place: `True`, or a `RecallSteps` of your own.
        threshold: Gate of the refinement, in the reward's space. `reward` takes the reward's own: that of
            its calibration or family, else the middle of its space, .5 (as in the paper) or 0. `None`
            never refines. By default a `step` search takes the reward's own, and a plan is not refined.
        accept: `if_better`, or `always` as in the paper.
        explainer: The explanation model, which says what is wrong with a weak step; `None` means `model`.
        reranker: A model or comparator that compares passages, or any document compressor; `None` leaves
            it out.
        condense: Make a follow-up of a conversation a question that stands alone before the search: with
            `model` (`True`) or another one; see `CondenseQuestion`.
        temperature: Of the proposals.
        seed: Same seed, inputs and machine: same tree.
        budget: Bounds of a run; reaching one ends the search with the best answer so far.
        deltas: Let checkpoints hold what each superstep added instead of the whole tree: a tenth of the
            bytes for a tree of 200 steps, through LangGraph's `DeltaChannel`, which is in beta.
        prompts: Templates.
        max_tokens: Most tokens of the answer; a model that continues no prefix gets at least 256.
        form: How an answer should look, instead of a few words: "one sentence", "two paragraphs".
        language: Language of the answer, for instance "German".
        response_format: Schema of the answer, a pydantic model or a JSON schema: the answer is JSON, and
            comes from a chat model that can be held to a schema.

    Returns:
        The uncompiled graph: input `question` or `messages`, output `answer`, `citations`,
        `documents`, `messages`, the search tree `prm_steps` with `prm_documents`, `prm_usage` and
        `prm_stop_reason`.

    Raises:
        ConfigurationError: If a setting is wrong, or the value function does not fit the reward's space.
    """
    language_model = as_language_model(model)
    if mode not in ("step", "plan", None):
        raise ConfigurationError(f"mode must be 'step' or 'plan', not {mode!r}.")
    if candidates is not None:
        checked_setting("n", candidates, "candidates")
    found, read = passages_to(k, passages, plain=5 if reader else 1, reranked=reranker is not None)
    if reward is None and reader is not None:
        reward = ReaderGrounding(reader, passages=read)
    elif reward is None:
        reward = default_reward(language_model, passages=read, prompts=prompts)
    reward = as_reward(reward)
    value = value_called(value, reward.space, reward.rise)
    if isinstance(value, PAV) and not reward.calibrated:
        _log.warning(
            "PAV takes scores for chances of success, and %r is not calibrated: fit it on labelled steps "
            "(agentprm.rewards.Calibrated.fit).",
            reward,
        )
    recalling = RecallExperience(budget=budget) if experience is True else experience or None
    stepping = RecallSteps() if analogies is True else analogies or None
    shown = recalling is not None or stepping is not None
    planned = mode == "plan" or (mode is None and reader is not None and not value.horizon and not shown)
    strategy = strategy_called(strategy)
    greedy = isinstance(strategy, Greedy)
    if planned:
        _check_plan(
            one_finding=reader is None and (not greedy or (candidates or 1) > 1),
            query_reward=query_reward is not None,
            recall=recall,
            shown=shown,
        )
    if candidates is None:
        candidates = 1 if planned and greedy else 3
    if max_steps is None:
        max_steps = 8 if planned else 5
    if threshold == "mode":
        threshold = None if planned else "reward"

    sampling: dict[str, Any] = {
        "temperature": temperature,
        "seed": seed,
        "recall": recall,
        "prompts": prompts,
        "budget": budget,
    }
    proposing = {"max_steps": max_steps, "min_steps": min_steps, **sampling}
    finding: list[Any] = [RetrieveSteps(retriever, k=found, budget=budget)]
    if reranker is not None:
        # What a step was found but not given is not read: the next step may still be given it.
        finding.append(RerankSteps(pairwise_compressor(reranker), top_k=read, budget=budget))
    beginning: list[Any] = []
    if begin_tokens is not None:
        if reader is not None:
            raise ConfigurationError(
                "A reader quotes its findings at once; leave out begin_tokens or reader."
            )
        beginning = [
            BeginSteps(language_model, tokens=begin_tokens, passages=read, prompts=prompts, budget=budget),
            RejectEarly(reward, keep=keep, budget=budget, name="reject_partial"),
        ]
    finishing = [
        CompleteSteps(
            reader or language_model,
            passages=read,
            findings=candidates if planned else 1,
            prompts=prompts,
            budget=budget,
        ),
        ScoreSteps(reward, budget=budget),
    ]

    way: list[Any] = condensing(condense, language_model, prompts=prompts, budget=budget)
    if planned:
        way.append(PlanQuestion(planner, max_steps=max_steps, budget=budget))
        way.append(FollowPlan(retriever, together=greedy, budget=budget))
    else:
        way += [node for node in (recalling, stepping) if node is not None]
        way.append(ProposeSteps(language_model, n=candidates, **proposing))
        if query_reward is not None:
            way.append(RejectEarly(query_reward, keep=keep, budget=budget))
    way += [*finding, *beginning, *finishing]
    if planned and value.horizon:
        raise ConfigurationError(
            "A plan says what comes next, so that there is nothing to simulate: use a value function without "
            "a horizon in the mode 'plan', or the mode 'step'."
        )
    if not isinstance(value, Plain):
        rollout = [ProposeSteps(language_model, n=1, look_ahead=True, **proposing), *finding, *finishing]
        way.append(LookAhead(rollout, value=value, shallow=shallow, budget=budget))
    way.append(
        SelectSteps(
            strategy,
            reward=reward,
            threshold=threshold,
            accept=accept,
            max_steps=max_steps,
            human=human,
            budget=budget,
        )
    )

    first = next(iter(strategy.ask(Tree([])).expand), None)
    widths = {"": first.children} if first is not None and first.children is not None else {}
    inside, output = (DeltaGraphState, DeltaSearched) if deltas else (ReasoningGraphState, Searched)
    builder = graph_in_a_row(inside, output, partial(begin_search, widths=widths), way)
    refine = RefineStep(language_model, explainer=explainer, **sampling)
    builder.add_node(refine.name, refine, input_schema=inside)
    builder.add_edge("refine", "retrieve")
    written = answering(prompts, max_tokens, form, language, response_format)
    answer = AnswerFromSteps(language_model, speak=True, budget=budget, **written)
    builder.add_node(answer.name, answer, input_schema=inside)
    # Where the next step begins: thoughts and places change, the question does not.
    on = next((node.name for node in way if node is stepping or node.name == "propose"), "propose")
    if recalling is not None and recalling.by == "thought":
        on = recalling.name
    ways: Any = {"propose": on, "refine": "refine", "answer": "answer"}
    builder.add_conditional_edges("select", after_selection, ways)
    last = answer.name
    if recalling is not None:
        keeping = CommitExperience(store=recalling.own_store, namespace=recalling.namespace)
        last = keeping.name
        builder.add_node(last, keeping, input_schema=inside)
        builder.add_edge("answer", last)
    builder.add_edge(last, END)
    return builder


def _check_plan(*, one_finding: bool, query_reward: bool, recall: bool, shown: bool) -> None:
    """Refuses what has no meaning where a plan says what to ask.

    Raises:
        ConfigurationError: If there is something.
    """
    if one_finding:
        raise ConfigurationError(
            "In the mode 'plan' candidates are different findings of the same sub-question, and the language "
            "model gives only one: give a reader, or use the mode 'step', or strategy='greedy' with one "
            "candidate."
        )
    if query_reward:
        raise ConfigurationError(
            "query_reward chooses among proposed queries, and in the mode 'plan' the plan says what to ask: "
            "leave it out, or use the mode 'step'."
        )
    if recall:
        raise ConfigurationError(
            "recall offers steps without a search, and in the mode 'plan' the plan says what is looked up: "
            "leave it out, or use the mode 'step'."
        )
    if shown:
        raise ConfigurationError(
            "experience and analogies are shown where steps are proposed, and in the mode 'plan' none are: "
            "leave them out, or use the mode 'step'."
        )
