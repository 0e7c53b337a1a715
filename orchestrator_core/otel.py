"""
Sagas as OpenTelemetry spans: the duration of each step of a deployment and of an end.

::

    orch = Orchestrator(observer=TracingObserver())

A deployment is the span ``run saga`` with a child ``do STEP`` for each step. An end is
``unwind saga`` with an ``undo STEP`` for each. The unwinding of a failed deployment is a child
of the deployment's span. A later end, mostly in another process, has a *link* to the span of
its deployment: the journal stores that span's ``traceparent``, and nothing else.

Spans go to the given tracer provider, or to the one that the application has configured;
without one, there are no spans. This module configures no provider. The supervisor of an agent
unwinds it in a process without a provider, so an agent that ends by itself has no spans of its
end until :meth:`TracingObserver.record_end` makes them.

It needs the extra ``otel``: ``pip install 'orchestrator-core[otel]'``.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core import __version__
from orchestrator_core.exceptions import OrchestratorError, SagaError
from orchestrator_core.saga import Observer, UnwindReport
from orchestrator_core.system.deprecation import warn_renamed

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:

    class OtelMissing(OrchestratorError, ImportError):
        """The extra ``otel`` is not installed."""

        code = "otel-missing"
        default_hint = "pip install 'orchestrator-core[otel]'"

    raise OtelMissing(f"the OpenTelemetry API is not installed: {error}") from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.trace import Link, Span, Tracer, TracerProvider

    from orchestrator_core.saga import History, StepReport, Unwind

__all__ = ["TracingObserver"]

LABELS = ("task_id", "type", "parent")
_TRACEPARENT = "traceparent"  #: The name in the W3C's Trace Context.
_W3C = TraceContextTextMapPropagator()
_MAX_SEEN_ENDS = 10_000  #: Ids; the oldest are dropped.


class TracingObserver(Observer):
    """Makes spans of what happens to the sagas of one root. Safe in any number of threads."""

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        labels: Iterable[str] = LABELS,
    ) -> None:
        """
        Trace to *tracer_provider*, or to the one that the application has configured.

        Those of a saga's labels that *labels* names become attributes of its spans. The values
        of all others never leave this process.
        """
        self._tracer: Tracer = trace.get_tracer(
            "orchestrator_core", __version__, tracer_provider=tracer_provider
        )
        self._labels = tuple(labels)
        self._runs: dict[str, _SpanInProgress] = {}
        self._unwindings: dict[str, _SpanInProgress] = {}
        self._resumed: dict[str, tuple[dict[str, Any], list[Link]]] = {}
        self._seen_ends: dict[str, None] = {}  #: Saga ids, oldest first.

    # --- forward ---------------------------------------------------------------------------------

    def saga_begun(self, saga_id: str, labels: Mapping[str, object]) -> None:
        """Start the saga's span, as a child of the caller's span if there is one."""
        span = self._tracer.start_span("run saga", attributes=self._attributes(saga_id, labels))
        self._runs[saga_id] = _SpanInProgress(self._tracer, span)

    def state_to_persist(self, saga_id: str) -> Mapping[str, Any] | None:
        """Return the ``traceparent`` that a later end links to."""
        run = self._runs.get(saga_id)
        carrier: dict[str, str] = {}
        if run is not None:
            _W3C.inject(carrier, run.context)
        return {_TRACEPARENT: carrier[_TRACEPARENT]} if _TRACEPARENT in carrier else None

    def step_done(self, saga_id: str, step: str, duration_ms: float) -> None:
        """Make the span of a step."""
        if run := self._runs.get(saga_id):
            run.add_step("do", step, run.interval(duration_ms))

    def step_failed(self, saga_id: str, step: str, error: BaseException) -> None:
        """Make the span of a step, with its error."""
        if run := self._runs.get(saga_id):
            run.error = _SpanError.from_exception(error)
            run.add_step("do", step, run.interval_since_last(), error=run.error)

    def saga_committed(self, saga_id: str) -> None:
        """End the span of a deployment."""
        if run := self._runs.pop(saga_id, None):
            run.end()

    # --- backward --------------------------------------------------------------------------------

    def saga_resumed(
        self, saga_id: str, labels: Mapping[str, object], observer_state: Mapping[str, Any]
    ) -> None:
        """Keep the attributes and the link for the span of the end."""
        self._resumed[saga_id] = self._attributes(saga_id, labels), _links(observer_state)

    def unwinding_begun(self, saga_id: str, why: Unwind) -> None:
        """Start the span of an end: a child of the failed deployment, or with a link to it."""
        run = self._runs.get(saga_id)
        attributes, links = self._resumed.pop(saga_id, (self._attributes(saga_id, {}), []))
        span = self._tracer.start_span(
            "unwind saga",
            run.context if run else None,
            attributes=attributes | _reason(why),
            links=links,
        )
        self._unwindings[saga_id] = _SpanInProgress(self._tracer, span)
        if run and run.error is None:
            run.error = _SpanError(why.reason.value, why.message)

    def step_undone(self, saga_id: str, report: StepReport) -> None:
        """Make the span of an undo."""
        if unwinding := self._unwindings.get(saga_id):
            interval = unwinding.interval(report.duration_ms)
            unwinding.add_step("undo", report.step, interval, result=report.result)

    def undo_failed(self, saga_id: str, step: str, error: BaseException) -> None:
        """Make the span of one failed attempt to undo a step."""
        if unwinding := self._unwindings.get(saga_id):
            interval = unwinding.interval_since_last()
            span_error = _SpanError.from_exception(error)
            unwinding.add_step("undo", step, interval, error=span_error, result="failed")

    def saga_stuck(self, saga_id: str, report: UnwindReport) -> None:
        """End the span of an end that may leave something."""
        self._end(saga_id, report)

    def saga_closed(self, saga_id: str, report: UnwindReport) -> None:
        """End the span of a complete end."""
        self._note_end(saga_id)
        self._end(saga_id, report)

    def _end(self, saga_id: str, report: UnwindReport) -> None:
        if unwinding := self._unwindings.pop(saga_id, None):
            unwinding.error = _stuck_error(report)
            unwinding.end()
        if run := self._runs.pop(saga_id, None):
            run.end()

    def _note_end(self, saga_id: str) -> None:
        self._seen_ends[saga_id] = None
        if len(self._seen_ends) > _MAX_SEEN_ENDS:
            self._seen_ends.pop(next(iter(self._seen_ends)), None)

    # --- afterwards ------------------------------------------------------------------------------

    def record_end(self, history: History) -> bool:
        """
        Make the spans of an end that another process carried out, from its journal.

        For agents that end by themselves, after :meth:`Orchestrator.wait`::

            orch.wait(agent.id, timeout_s=600)
            tracing.record_end(orch.history(agent.id))

        The spans have the times of the end, and the link to the deployment. Return False,
        and make none, for an end that this observer has seen or recorded. The records of other
        observers are unknown here, so only one process should record ends.

        Raises:
            SagaError: The saga has not ended.
        """
        if history.report is None:
            raise SagaError(f"saga {history.saga_id!r} has not ended, so no end can be recorded")
        if history.saga_id in self._seen_ends:
            return False
        self._note_end(history.saga_id)
        report = msgspec.convert(history.report, UnwindReport)
        end_ns = _epoch_ns(history.closed_at)
        start_ns = end_ns - _ms_to_ns(report.duration_ms)
        span = self._tracer.start_span(
            "unwind saga",
            attributes=self._attributes(history.saga_id, history.labels) | _reason(report.why),
            links=_links(history.observer_state),
            start_time=start_ns,
        )
        unwinding = _SpanInProgress(
            self._tracer, span, last_ns=start_ns, error=_stuck_error(report)
        )
        for step in report.steps:
            error = _SpanError("failed", step.error) if step.failed else None
            interval = unwinding.last_ns, unwinding.last_ns + _ms_to_ns(step.duration_ms)
            unwinding.add_step("undo", step.step, interval, error=error, result=step.result)
        unwinding.end(end_ns)
        return True

    def tell_end(self, history: History) -> bool:
        """Return :meth:`record_end`; this old name emits a DeprecationWarning."""
        warn_renamed("TracingObserver.tell_end", "record_end")
        return self.record_end(history)

    def _attributes(self, saga_id: str, labels: Mapping[str, object]) -> dict[str, Any]:
        values = {f"orchestrator_core.label.{name}": labels.get(name) for name in self._labels}
        return {"orchestrator_core.saga.id": saga_id} | {
            name: value
            for name, value in values.items()
            if isinstance(value, (str, bool, int, float))
        }


# --- spans ----------------------------------------------------------------------------------------


@attrs.frozen
class _SpanError:
    """The error of a span: its type and its message."""

    type: str
    message: str

    @classmethod
    def from_exception(cls, error: BaseException) -> _SpanError:
        kind = type(error)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        return cls(f"{module}{kind.__qualname__}", str(error))


@attrs.define
class _SpanInProgress:
    """A saga's span that has not ended; its steps' spans are made when the steps are over."""

    tracer: Tracer
    span: Span
    last_ns: int = attrs.field(factory=time.time_ns)  #: When the last step was over.
    error: _SpanError | None = None

    @property
    def context(self) -> Context:
        return trace.set_span_in_context(self.span)

    def interval(self, duration_ms: float) -> tuple[int, int]:
        """Return the start and the end of a step that ends now, in ns since 1970."""
        now_ns = time.time_ns()
        return max(self.last_ns, now_ns - _ms_to_ns(duration_ms)), now_ns

    def interval_since_last(self) -> tuple[int, int]:
        """Return the same for a step of unknown duration: since the last step was over."""
        return self.last_ns, time.time_ns()

    def add_step(
        self,
        verb: str,
        step: str,
        interval: tuple[int, int],
        *,
        error: _SpanError | None = None,
        result: str | None = None,
    ) -> None:
        """Make a step's span."""
        attributes = {"orchestrator_core.step.name": step}
        if result is not None:
            attributes["orchestrator_core.step.result"] = result
        start_ns, end_ns = interval
        span = self.tracer.start_span(
            f"{verb} {step}", self.context, attributes=attributes, start_time=start_ns
        )
        _end_span(span, error, end_ns)
        self.last_ns = end_ns

    def end(self, at_ns: int | None = None) -> None:
        """End the saga's span."""
        _end_span(self.span, self.error, at_ns)


def _end_span(span: Span, error: _SpanError | None, at_ns: int | None) -> None:
    # No exception event: OpenTelemetry replaces those by logs, and the log has `step.failed`.
    if error is not None:
        span.set_attribute("error.type", error.type)
        span.set_status(trace.StatusCode.ERROR, error.message)
    span.end(at_ns)


def _stuck_error(report: UnwindReport) -> _SpanError | None:
    if report.closed:
        return None
    return _SpanError("stuck", f"not undone: {', '.join(step.step for step in report.failed)}")


def _reason(why: Unwind) -> dict[str, str]:
    attributes = {"orchestrator_core.unwind.reason": why.reason.value}
    by = why.detail.get("by")
    return attributes | {"orchestrator_core.unwind.by": by} if isinstance(by, str) else attributes


def _links(state: Mapping[str, Any]) -> list[Link]:
    """Return the link to a deployment's span; none if the deployment was not traced."""
    carrier = {_TRACEPARENT: str(state.get(_TRACEPARENT, ""))}
    context = trace.get_current_span(_W3C.extract(carrier, Context())).get_span_context()
    return [trace.Link(context)] if context.is_valid else []


def _epoch_ns(timestamp: str) -> int:
    return round(dt.datetime.fromisoformat(timestamp).timestamp() * 1e9)


def _ms_to_ns(duration_ms: float) -> int:
    return round(duration_ms * 1e6)
