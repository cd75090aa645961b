r"""Reward models by name, read as their authors read them: `load_reward`, and the families that it knows.

A family is data. To add one, register it; nothing else has to change:

    from agentprm.rewards import Family, PlainSteps, load_reward, register

    register(Family(
        name="my-prm",
        readout="token-logits",
        template=PlainSteps(tag=" <step>", head="{question}\n"),
        options={"good": "+", "bad": "-"},
        checkpoints=("me/my-prm-7b",),
    ))
    reward = load_reward("me/my-prm-7b")

`default_reward` is what a model gets if the user names none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agentprm.errors import ConfigurationError
from agentprm.forking import ForkSafeLock
from agentprm.lm import LanguageModel, as_language_model
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rewards.base import ProcessRewardModel
from agentprm.rewards.known_families import KNOWN, Family
from agentprm.rewards.likelihood import Fused, Grounding, Relevance
from agentprm.rewards.step_text import StepText
from agentprm.rewards.verdict import VerdictReward
from agentprm.rewards.verdict_templates import Judge

__all__ = [
    "GATE",
    "default_reward",
    "families",
    "find_family",
    "load_reward",
    "readout",
    "register",
    "register_readout",
]


_READOUTS: dict[str, str | Callable[..., ProcessRewardModel]] = {
    "token-head": "agentprm.rewards.readouts:TokenHead",
    "token-logits": "agentprm.rewards.readouts:TokenLogits",
    "value-head": "agentprm.rewards.readouts:ValueHead",
    "prefix-scalar": "agentprm.rewards.readouts:PrefixScalar",
    "log-ratio": "agentprm.rewards.log_ratio:LogRatio",
    "verdict": "agentprm.rewards.verdict:VerdictReward",
}
_FAMILIES: dict[str, Family] = {}
_lock = ForkSafeLock()


def register_readout(name: str, factory: Callable[..., ProcessRewardModel]) -> None:
    """Makes a readout known: a callable `factory(model, template=…, **options)`."""
    with _lock:
        _READOUTS[name] = factory


def readout(name: str) -> Callable[..., ProcessRewardModel]:
    """The readout of this name, imported when it is first asked for."""
    with _lock:
        found = _READOUTS.get(name)
    if found is None:
        raise ConfigurationError(f"There is no readout {name!r}; there are {', '.join(sorted(_READOUTS))}.")
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        chosen: Callable[..., ProcessRewardModel] = getattr(import_module(module), attribute)
        return chosen
    return found


def register(family: Family) -> None:
    """Adds a family, or replaces the one of the same name.

    Raises:
        ConfigurationError: If its readout is unknown, or a checkpoint or architecture belongs to
            another family.
    """
    with _lock:
        if family.readout not in _READOUTS:
            raise ConfigurationError(
                f"Family {family.name!r} wants the readout {family.readout!r}; there are "
                f"{', '.join(sorted(_READOUTS))}. Add your own with register_readout."
            )
        for other in _FAMILIES.values():
            if other.name == family.name:
                continue
            shared = {c.casefold() for c in other.checkpoints} & {c.casefold() for c in family.checkpoints}
            shared |= set(other.architectures) & set(family.architectures)
            if shared:
                raise ConfigurationError(f"{sorted(shared)} belong to the family {other.name!r} already.")
        _FAMILIES[family.name] = family


def families() -> Mapping[str, Family]:
    """All families by name."""
    with _lock:
        return MappingProxyType(dict(_FAMILIES))


def find_family(name: str = "", config: Mapping[str, Any] | None = None) -> Family | None:
    """The family of a checkpoint, from its exact name or from what its config states.

    Args:
        name: Name on the hub.
        config: The contents of `config.json`: `agentprm_family`, if there is one, else
            `architectures`.
    """
    known = families()
    for family in known.values():
        if name.casefold() in (checkpoint.casefold() for checkpoint in family.checkpoints):
            return family
    stated = (config or {}).get("agentprm_family")
    if stated is not None:
        return _named(stated, f"The config of {name!r} names the family {stated!r}")
    architectures = set((config or {}).get("architectures") or ())
    return next((f for f in known.values() if architectures & set(f.architectures)), None)


def load_reward(model: Any, family: str | Family | None = None, **options: Any) -> ProcessRewardModel:
    """A reward model, with the readout and the template of its family.

    The family is the one you name; else that of the checkpoint's exact name on the hub; else what its
    `config.json` states, as `agentprm_family` or by an architecture that belongs to one family only.
    A name is never guessed from a part of itself. Weights are read from safetensors, or with
    `torch.load(weights_only=True)`; no code of a checkpoint is ever run.

    Args:
        model: A name on the hub or a folder; a served model (`ServerLM`, `VllmLM`, or the address of a
            server); the folder of a `StepCritic`; or what the readout takes instead: a loaded model with
            `tokenizer=…`, for verdicts any language or chat model.
        family: A name of `families()`, or a `Family`.
        options: Arguments of the readout (`on_overflow`, `k`, `reference`, …) or of the family's
            template (`merge`, `references`, `principles`, `execute`, …); `template=…` replaces it.

    Returns:
        The reward, with the authors' `threshold` and `aggregation`, and its `family`.

    Raises:
        ConfigurationError: If the family is unknown or cannot be told.
    """
    if isinstance(model, str) and model.startswith(("http://", "https://")):
        model = as_language_model(model)
    if isinstance(model, str) and model in _MADE and not Path(model).exists():
        raise ConfigurationError(
            f"{model!r} is no checkpoint: agentprm.rewards.{_MADE[model]} makes the reward."
        )
    named = isinstance(model, str | Path)
    if family is None and named and (Path(model).expanduser() / "step_critic.json").is_file():
        from agentprm.rewards.step_critic import StepCritic

        return StepCritic(model, **options)
    chosen = _family(model, family)
    template = options.pop("template", None)
    if template is None:
        template = _with(chosen.template, options)
    build, arguments = _readout(model, chosen)
    arguments.update(options)
    if unknown := set(options) - _accepted(build):
        raise ConfigurationError(
            f"The family {chosen.name!r} cannot be loaded with {', '.join(sorted(unknown))}. Its readout "
            f"takes {', '.join(sorted(_accepted(build)))}."
        )
    reward = build(model, template=template, **arguments)
    reward.family = chosen  # type: ignore[attr-defined]
    reward.threshold, reward.aggregation = chosen.threshold, chosen.aggregate
    return reward


# What the command line calls so is made of a model, and no name on the hub.
_MADE = {
    "grounding": "Grounding(language_model)",
    "relevance": "Relevance(language_model)",
    "self-judgement": "SelfJudgement(language_model)",
    "judge": "VerdictReward(language_model)",
    "reader": "ReaderGrounding(reader)",
}
# Which class reads a readout off a served model; verdicts take any language model.
_SERVED = {
    "token-logits": "ServedTokenLogits",
    "log-ratio": "ServedLogRatio",
    "token-head": "ServedTokenHead",
    "value-head": "ServedTokenHead",
    "prefix-scalar": "ServedTokenHead",
}


def _readout(model: Any, family: Family) -> tuple[Callable[..., ProcessRewardModel], dict[str, Any]]:
    """The class that reads the family off this model, and the family's arguments for it."""
    arguments = dict(family.options)
    if not _is_served(model) or family.readout not in _SERVED:
        return readout(family.readout), arguments
    # The name of a served model is that of its checkpoint, unless the server was told another.
    tokenizer = model.tokenizer if model.tokenizer is not None else getattr(model, "model", None)
    if family.readout == "token-head":
        arguments = {"positive": arguments.get("positive", (1,))}
    elif family.readout in ("value-head", "prefix-scalar"):
        arguments = {"positive": (0,), "activation": arguments.get("activation", "sigmoid")}
    build: Callable[..., ProcessRewardModel] = getattr(
        import_module("agentprm.rewards"), _SERVED[family.readout]
    )
    return build, {"tokenizer": tokenizer, **arguments}


def _is_served(model: Any) -> bool:
    if not isinstance(model, LanguageModel):
        return False
    from agentprm.lm.token_lm import TokenLM

    return isinstance(model, TokenLM)


def _named(name: str, otherwise: str) -> Family:
    known = families()
    if name not in known:
        raise ConfigurationError(f"{otherwise}; there are {', '.join(sorted(known))}.")
    return known[name]


def _family(model: Any, family: str | Family | None) -> Family:
    if isinstance(family, Family):
        return family
    if family is not None:
        return _named(family, f"There is no family {family!r}")
    served = getattr(model, "model", None) if isinstance(model, LanguageModel) else None
    name = str(model) if isinstance(model, str | Path) else served if isinstance(served, str) else ""
    found = find_family(name)
    if found is None and isinstance(model, str | Path):
        from agentprm.rewards.checkpoints import read_config

        found = find_family(name, read_config(name))
    if found is None:
        raise ConfigurationError(
            f"What kind of reward model {name or type(model).__name__!r} is cannot be told from its name or "
            f"config. Say it with family=…, one of {', '.join(sorted(families()))}, or register a Family."
        )
    return found


def _accepted(build: Callable[..., Any]) -> set[str]:
    """Names of a readout's arguments; those that it hands on to its base classes included."""
    makers = [vars(kind)["__init__"] for kind in getattr(build, "__mro__", ()) if "__init__" in vars(kind)]
    names: set[str] = set()
    for maker in makers or [build]:
        found = inspect.signature(maker).parameters.values()
        names |= {p.name for p in found if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        if not any(p.kind == p.VAR_KEYWORD for p in found):
            break
    return names - {"self", "model", "template", "outputs"}


def _with(template: Any, options: dict[str, Any]) -> Any:
    """The family's template, with those of `options` that are fields of it; they are taken out."""
    kind = template if isinstance(template, type) else type(template)
    names = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
    given = {name: options.pop(name) for name in names & set(options)}
    if isinstance(template, type) or not is_dataclass(kind):
        return template(**given) if callable(template) else template
    return replace(template, **given) if given else template


for _known in KNOWN:
    register(_known)


#: Up to where the best candidate of a choice is weak, by the fused likelihoods of a local model: where wrong
#: ones part from right ones (`benchmarks/gate.py`, packaged model). Both parts are sigmoids of log-ratios, so
#: a step of no use still scores above .5, and a gate there hardly ever fires. Here four of five refinements
#: meet a wrong step, and half of the wrong steps are met; gates fitted anew came to .989 and .995.
GATE = 0.98


def default_reward(
    model: LanguageModel | Any, *, passages: int = 1, prompts: Prompts = PROMPTS
) -> ProcessRewardModel:
    """The reward without training that suits a model.

    With log-likelihoods `Grounding` and `Relevance` fused, which told right steps from wrong ones best
    (`benchmarks/rewards.py`); its gate is `GATE`. A chat model gives none, so it judges each step in words
    (`VerdictReward`), at the cost of a call a step. The score is the probability of its verdict where
    the model reports the likeliest tokens, else 1 or 0, which leaves most candidates equal.

    Args:
        model: A language model, or whatever `as_language_model` takes.
        passages: Most passages of a step that are shown.
        prompts: Templates of the likelihoods.
    """
    model = as_language_model(model)
    if model.capabilities.loglikelihood:
        kinds = (Grounding, Relevance)
        fused = Fused([kind(model, passages=passages, prompts=prompts) for kind in kinds])
        fused.threshold = GATE
        return fused
    return VerdictReward(model, Judge(), step_text=StepText(max_passages=passages))
