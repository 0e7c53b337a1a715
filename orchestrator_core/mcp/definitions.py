"""
The tools, described once for every kind of server: name, schemas, hints, and the call.

A definition validates a model's arguments itself, because each SDK words its refusals in its
own way. An adapter passes the arguments on, and returns the answer in its SDK's types.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any, get_type_hints

import attrs
import msgspec
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model

from orchestrator_core.exceptions import InvalidInput, OrchestratorError
from orchestrator_core.mcp.errors import error_text
from orchestrator_core.mcp.progress import ToolCall, current_call
from orchestrator_core.mcp.schemas import ErrorValues
from orchestrator_core.system.log import emit
from orchestrator_core.system.surrogates import replace_surrogates

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from orchestrator_core.mcp.parameters import Hints

_WARNINGS = "validation_warnings"  #: In a result: what was ignored or changed in the arguments.


@attrs.frozen
class ToolAnswer:
    """The answer to a call: the text for the model, and the same as values."""

    text: str
    values: dict[str, Any] | None
    is_error: bool = False

    def to_wire(self) -> dict[str, Any]:
        """Return it as the protocol has it."""
        content = [{"type": "text", "text": self.text}]
        wire: dict[str, Any] = {"content": content, "isError": self.is_error}
        return wire if self.values is None else wire | {"structuredContent": self.values}


class ToolDefinition:
    """
    One tool.

    The output schema requires only ``success``, and describes the values of an error as well:
    some clients check an error's values, too, and drop its text if they do not fit.
    A tool without a schema answers with text only, so that nothing long is sent twice.
    """

    def __init__(
        self,
        method: Callable[..., Awaitable[Any]],
        hints: Hints,
        *,
        prefix: str = "",
        has_values: bool = True,
        reword: Callable[[str], str] = str,
    ) -> None:
        """Describe *method*; *reword* changes each text that names a tool."""
        types = get_type_hints(method, include_extras=True)
        fields = {
            name: (types[name], ... if parameter.default is parameter.empty else parameter.default)
            for name, parameter in inspect.signature(method).parameters.items()
        }
        self.name = prefix + method.__name__
        self.description = reword(inspect.getdoc(method) or "")
        self.hints = dict(hints)
        self._method = method
        self._reword = reword
        self._parameters: type[BaseModel] = create_model(
            method.__name__,
            __config__=ConfigDict(protected_namespaces=()),
            **fields,  # type: ignore[call-overload]
        )
        schema = _without_titles(self._parameters.model_json_schema())
        self.input_schema = msgspec.json.decode(reword(msgspec.json.encode(schema).decode()))
        self.output_schema = _output_schema(types["return"]) if has_values else None

    def to_wire(self) -> dict[str, Any]:
        """Return it as the protocol has it."""
        wire = {
            "name": self.name,
            "description": self.description,
            "inputSchema": self.input_schema,
            "annotations": self.hints,
        }
        return wire if self.output_schema is None else wire | {"outputSchema": self.output_schema}

    async def call(self, arguments: Mapping[str, Any] | None, call: ToolCall) -> ToolAnswer:
        """Call the tool with a model's *arguments*. Every error but a cancellation is an answer."""
        with current_call(call):
            answer = await call.until_abandoned(self._call, arguments or {})
        if answer is None:
            return ToolAnswer(
                "the client disconnected; the call was cancelled", None, is_error=True
            )
        return answer

    async def _call(self, arguments: Mapping[str, Any]) -> ToolAnswer:
        try:
            values, warnings = self._validated(replace_surrogates(dict(arguments)))
            result = msgspec.to_builtins(await self._method(**values), enc_hook=str)
            if warnings:
                result.setdefault(_WARNINGS, []).extend(warnings)
            return self._answer(replace_surrogates(result))
        except OrchestratorError as error:
            return self._refused(error)
        except Exception as error:  # noqa: BLE001 - a request always has an answer
            _log_crash(self.name, error)
            kind = type(error).__name__
            return self._refused(OrchestratorError(f"internal error in {self.name}: {kind}"))

    def _answer(self, values: dict[str, Any]) -> ToolAnswer:
        text = msgspec.json.encode(values).decode()
        return ToolAnswer(text, values if self.output_schema is not None else None)

    def _refused(self, error: OrchestratorError) -> ToolAnswer:
        text, values = error_text(error, self._reword)
        sent = None if self.output_schema is None else replace_surrogates(values)
        return ToolAnswer(replace_surrogates(text), sent, is_error=True)

    def _validated(self, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """
        Return the arguments, and warnings of those that are not known.

        Raises:
            InvalidInput: An argument is missing, or of a wrong type.
        """
        known = list(self._parameters.model_fields)
        warnings = [
            f"{name!r:.80} is no parameter of {self.name}, and was ignored"
            for name in given
            if name not in known
        ]
        values = {name: value for name, value in given.items() if name in known}
        try:
            model = self._parameters.model_validate(values)
        except ValidationError as error:
            model = self._with_decoded_text(values, error)
        return {name: getattr(model, name) for name in known}, warnings

    def _with_decoded_text(self, values: dict[str, Any], error: ValidationError) -> BaseModel:
        """Validate again: some clients send lists and objects as JSON in a string."""
        for name in {each["loc"][0] for each in error.errors() if each["loc"]}:
            text = values.get(str(name))
            if isinstance(text, str) and text.lstrip()[:1] in ("[", "{"):
                try:
                    values = values | {str(name): msgspec.json.decode(text)}
                except (msgspec.DecodeError, RecursionError):
                    continue
        try:
            return self._parameters.model_validate(values)
        except ValidationError as final:
            raise InvalidInput(
                f"{self.name}: {'; '.join(_problem(each) for each in final.errors())}",
                hint=f"its parameters: {', '.join(self._parameters.model_fields)}",
            ) from None


def _log_crash(tool: str, error: Exception) -> None:
    """A tool raised an unexpected error. Its client gets an answer without the details."""
    emit(logging.ERROR, "mcp.tool_crashed", tool=tool, error=repr(error))


def _problem(error: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{where} is missing"
    return f"{where} = {error['input']!r:.80}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _output_schema(result: Any) -> dict[str, Any]:  # noqa: ANN401 - a TypedDict
    schema = TypeAdapter(result).json_schema(mode="serialization")
    of_errors = TypeAdapter(ErrorValues).json_schema(mode="serialization")["properties"]
    return _without_titles(
        {
            **schema,
            "properties": of_errors | schema["properties"],
            "required": ["success"],
        }
    )


def _without_titles(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without the titles that repeat its names."""
    plain = {name: value for name, value in schema.items() if name != "title"}
    for part in ("properties", "$defs"):
        if part in plain:
            plain[part] = {name: _without_titles(each) for name, each in plain[part].items()}
    return plain
