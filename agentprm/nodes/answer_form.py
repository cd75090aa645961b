"""How an answer is to look: its form, its language, its schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from agentprm.errors import CapabilityError, ConfigurationError, ParseError
from agentprm.lm import LanguageModel
from agentprm.prompts import Prompts, in_form, json_object

__all__ = ["AnswerForm", "ResponseFormat"]

#: A pydantic model, or the JSON schema of an object.
ResponseFormat = type[BaseModel] | Mapping[str, Any]


@dataclass(frozen=True)
class AnswerForm:
    """What a user asks of answers beyond the few words of the default.

    Args:
        form: For instance `"two paragraphs"`.
        language: For instance `"German"`.
        response_format: Schema of the answer, which then is JSON.
    """

    form: str | None = None
    language: str | None = None
    response_format: ResponseFormat | None = None

    def __post_init__(self) -> None:
        for name, text in (("form", self.form), ("language", self.language)):
            if text is not None and (not isinstance(text, str) or not text.strip()):
                raise ConfigurationError(f"{name} must be a text that is not empty, or None, not {text!r}.")
        wanted = self.response_format
        if not (wanted is None or isinstance(wanted, Mapping) or _is_pydantic(wanted)):
            raise ConfigurationError(
                f"response_format must be a pydantic model or a JSON schema, not {wanted!r}."
            )

    @property
    def plain(self) -> bool:
        """Whether nothing is asked for, so that an answer is a few words on a line."""
        return self.form is None and self.language is None and self.response_format is None

    def prompts(self, prompts: Prompts) -> Prompts:
        """The prompts with answers asked for in this form."""
        return in_form(prompts, self.form, self.language)

    def schema(self, model: LanguageModel) -> Mapping[str, Any] | None:
        """The schema, if there is one.

        Raises:
            CapabilityError: If `model` cannot be held to it.
        """
        wanted = self.response_format
        if wanted is None:
            return None
        if not model.capabilities.structured:
            raise CapabilityError(
                f"response_format needs a model that can be held to a schema; this {type(model).__name__} "
                "cannot. Use a chat model with with_structured_output, or a server's chat API."
            )
        if isinstance(wanted, Mapping):
            return {"title": "answer", **wanted}
        return wanted.model_json_schema()

    def check(self, answer: str) -> None:
        """Refuses an answer that does not keep to the schema.

        Raises:
            ParseError: If it is no JSON object, or the pydantic model does not accept it.
        """
        wanted = self.response_format
        if wanted is None:
            return
        remedy = "Raise max_tokens, or use a model that its provider holds to schemas."
        if json_object(answer) is None:
            raise ParseError(
                f"The answer is no JSON object as response_format asks: {answer[:200]!r}. {remedy}"
            )
        if not isinstance(wanted, Mapping):
            try:
                wanted.model_validate_json(answer)
            except ValidationError as error:
                raise ParseError(f"The answer does not fit response_format: {error}. {remedy}") from error


def _is_pydantic(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)
