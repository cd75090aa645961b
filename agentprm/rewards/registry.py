r"""The known families of reward models: which readout, which template, which checkpoints.

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
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from agentprm.errors import ConfigurationError
from agentprm.forking import ForkSafeLock
from agentprm.rewards.base import ProcessRewardModel
from agentprm.rewards.known_families import KNOWN, Family

__all__ = ["families", "find_family", "readout", "register", "register_readout"]


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
        if stated not in known:
            raise ConfigurationError(
                f"The config of {name!r} names the family {stated!r}; there are {', '.join(sorted(known))}."
            )
        return known[stated]
    architectures = set((config or {}).get("architectures") or ())
    return next((f for f in known.values() if architectures & set(f.architectures)), None)


for _family in KNOWN:
    register(_family)
