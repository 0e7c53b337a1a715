"""
Sagas as OpenTelemetry spans: where the time of a deployment and of an end goes.

::

    orch = Orchestrator(observer=TracingObserver())

A saga that runs is the span ``run saga``, with a ``do STEP`` below it for each step; one that
ends is ``unwind saga``, with an ``undo STEP`` for each. A deployment that fails is undone below
its own span. An end that comes later, mostly in another process, is a trace of its own or
part of its caller's, and has a *link* to the span of the deployment: the journal carries that
span's ``traceparent``, and nothing else.

Spans go to the tracer provider that the application has configured or gives; without one,
there are none. None is ever configured here. An agent that ends by itself is unwound by its
supervisor, a process of ours in which nobody has configured a provider: that end has no spans
until somebody tells of it, see :meth:`TracingObserver.record_end`.

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
from orchestrator_core.saga.observer import Observer
from orchestrator_core.saga.report import UnwindReport
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

    raise OtelMissing(f"there is no OpenTelemetry API here: {error}") from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.trace import Link, Span, Tracer, TracerProvider

    from orchestrator_core.saga import History, StepReport, Unwind

__all__ = ["TracingObserver"]

LABELS = ("task_id", "type", "parent")
_TRACEPARENT = "traceparent"  #: As the W3C names it.
_W3C = TraceContextTextMapPropagator()
_REMEMBERED = 10_000  #: Ends that were watched here; each is an id.


class TracingObserver(Observer):
    """Makes spans of what happens to the sagas of one root. Safe in any number of threads."""

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        labels: Iterable[str] = LABELS,
    ) -> None:
        """
        Trace to a provider, or else to the one that the application has configured.

        *labels* are those of a saga's labels that become attributes of its spans; all
        others, whatever they hold, stay here.
        """
        self._tracer: Tracer = trace.get_tracer(
            "orchestrator_core", __version__, tracer_provider=tracer_provider
        )
        self._labels = tuple(labels)
        self._runs: dict[str, _Work] = {}
        self._unwindings: dict[str, _Work] = {}
        self._taken_up: dict[str, tuple[dict[str, Any], list[Link]]] = {}
        self._watched: dict[str, None] = {}  #: In order: the oldest are forgotten.

    # --- forward ---------------------------------------------------------------------------------

    def saga_begun(self, saga_id: str, labels: Mapping[str, object]) -> None:
        """Begin its span, below the caller's if there is one."""
        span = self._tracer.start_span("run saga", attributes=self._about(saga_id, labels))
        self._runs[saga_id] = _Work(self._tracer, span)

    def state_to_persist(self, saga_id: str) -> Mapping[str, Any] | None:
        """Return what a later end is linked by."""
        run = self._runs.get(saga_id)
        carrier: dict[str, str] = {}
        if run is not None:
            _W3C.inject(carrier, run.context)
        return {_TRACEPARENT: carrier[_TRACEPARENT]} if _TRACEPARENT in carrier else None

    def step_done(self, saga_id: str, step: str, duration_ms: float) -> None:
        """Tell of a step."""
        if run := self._runs.get(saga_id):
            run.tell("do", step, run.lasting(duration_ms))

    def step_failed(self, saga_id: str, step: str, error: BaseException) -> None:
        """Tell of a step, and of what it raised."""
        if run := self._runs.get(saga_id):
            run.wrong = _Wrong.of(error)
            run.tell("do", step, run.until_now(), wrong=run.wrong)

    def saga_committed(self, saga_id: str) -> None:
        """End its span: it has come to all."""
        if run := self._runs.pop(saga_id, None):
            run.end()

    # --- backward --------------------------------------------------------------------------------

    def saga_resumed(
        self, saga_id: str, labels: Mapping[str, object], carried: Mapping[str, Any]
    ) -> None:
        """Remember what the end's span is to say, and to be linked to."""
        self._taken_up[saga_id] = self._about(saga_id, labels), _links(carried)

    def unwinding_begun(self, saga_id: str, why: Unwind) -> None:
        """Begin its span: below the deployment that has failed, or linked to an earlier one."""
        run = self._runs.get(saga_id)
        about, links = self._taken_up.pop(saga_id, (self._about(saga_id, {}), []))
        span = self._tracer.start_span(
            "unwind saga",
            run.context if run else None,
            attributes=about | _reason(why),
            links=links,
        )
        self._unwindings[saga_id] = _Work(self._tracer, span)
        if run and run.wrong is None:
            run.wrong = _Wrong(why.reason.value, why.message)

    def step_undone(self, saga_id: str, report: StepReport) -> None:
        """Tell of an undo."""
        if unwinding := self._unwindings.get(saga_id):
            lasted = unwinding.lasting(report.duration_ms)
            unwinding.tell("undo", report.step, lasted, result=report.result)

    def undo_failed(self, saga_id: str, step: str, error: BaseException) -> None:
        """Tell of an undo, and of what it raised; there is one span for each try."""
        if unwinding := self._unwindings.get(saga_id):
            wrong = _Wrong.of(error)
            unwinding.tell("undo", step, unwinding.until_now(), wrong=wrong, result="failed")

    def saga_stuck(self, saga_id: str, report: UnwindReport) -> None:
        """End its span: something may be left."""
        self._end(saga_id, _wrong_with(report))

    def saga_closed(self, saga_id: str, report: UnwindReport) -> None:
        """End its span: nothing is left."""
        self._remember(saga_id)
        self._end(saga_id, _wrong_with(report))

    def _end(self, saga_id: str, wrong: _Wrong | None) -> None:
        if unwinding := self._unwindings.pop(saga_id, None):
            unwinding.wrong = wrong
            unwinding.end()
        if run := self._runs.pop(saga_id, None):
            run.end()

    def _remember(self, saga_id: str) -> None:
        self._watched[saga_id] = None
        if len(self._watched) > _REMEMBERED:
            self._watched.pop(next(iter(self._watched)), None)

    # --- afterwards ------------------------------------------------------------------------------

    def record_end(self, history: History) -> bool:
        """
        Make the spans of an end that was carried out where nobody traced, from its journal.

        For agents that end by themselves, once :meth:`Orchestrator.wait` has returned::

            orch.wait(agent.id, timeout_s=600)
            tracing.record_end(orch.history(agent.id))

        Their times are those of the end, and they are linked as ever. An end that this
        observer has watched is not told twice: False. What another one has told of is not
        known here, so have one process do it.

        Raises:
            SagaError: It has not ended.
        """
        if history.report is None:
            raise SagaError(
                f"saga {history.saga_id!r} has not ended, so there is no end to tell of"
            )
        if history.saga_id in self._watched:
            return False
        self._remember(history.saga_id)
        report = msgspec.convert(history.report, UnwindReport)
        end_ns = _ns(history.closed_at)
        start_ns = end_ns - _ns_of(report.duration_ms)
        span = self._tracer.start_span(
            "unwind saga",
            attributes=self._about(history.saga_id, history.labels) | _reason(report.why),
            links=_links(history.observer_state),
            start_time=start_ns,
        )
        told = _Work(self._tracer, span, since_ns=start_ns)
        for step in report.steps:
            wrong = _Wrong("failed", step.error) if step.failed else None
            lasted = told.since_ns, told.since_ns + _ns_of(step.duration_ms)
            told.tell("undo", step.step, lasted, wrong=wrong, result=step.result)
        told.wrong = _wrong_with(report)
        told.end(end_ns)
        return True

    def tell_end(self, history: History) -> bool:
        """Return :meth:`record_end`; this old name emits a DeprecationWarning."""
        warn_renamed("TracingObserver.tell_end", "record_end")
        return self.record_end(history)

    def _about(self, saga_id: str, labels: Mapping[str, object]) -> dict[str, Any]:
        told = {name: labels.get(name) for name in self._labels}
        return {
            "orchestrator_core.saga.id": saga_id,
            **{
                f"orchestrator_core.label.{name}": value
                for name, value in told.items()
                if isinstance(value, (str, bool, int, float))
            },
        }


# --- spans ----------------------------------------------------------------------------------------


@attrs.frozen
class _Wrong:
    """What a span's error is to say."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> _Wrong:
        kind = type(error)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        return cls(f"{module}{kind.__qualname__}", str(error))


@attrs.define
class _Work:
    """A saga's span while it lasts, and the steps below it, told when they are over."""

    tracer: Tracer
    span: Span
    since_ns: int = attrs.field(factory=time.time_ns)  #: When the last step was over.
    wrong: _Wrong | None = None

    @property
    def context(self) -> Context:
        return trace.set_span_in_context(self.span)

    def lasting(self, duration_ms: float) -> tuple[int, int]:
        """Return when a step began and ended that has ended now."""
        now_ns = time.time_ns()
        return max(self.since_ns, now_ns - _ns_of(duration_ms)), now_ns

    def until_now(self) -> tuple[int, int]:
        """Return the same for one whose duration nobody has told."""
        return self.since_ns, time.time_ns()

    def tell(
        self,
        verb: str,
        step: str,
        lasted: tuple[int, int],
        *,
        wrong: _Wrong | None = None,
        result: str | None = None,
    ) -> None:
        """Make a step's span."""
        about = {"orchestrator_core.step.name": step}
        if result is not None:
            about["orchestrator_core.step.result"] = result
        start_ns, end_ns = lasted
        span = self.tracer.start_span(
            f"{verb} {step}", self.context, attributes=about, start_time=start_ns
        )
        _end(span, wrong, end_ns)
        self.since_ns = end_ns

    def end(self, at_ns: int | None = None) -> None:
        """End the saga's."""
        _end(self.span, self.wrong, at_ns)


def _end(span: Span, wrong: _Wrong | None, at_ns: int | None) -> None:
    # No exception event: OpenTelemetry gives those up for logs, and ours has `step.failed`.
    if wrong is not None:
        span.set_attribute("error.type", wrong.kind)
        span.set_status(trace.StatusCode.ERROR, wrong.message)
    span.end(at_ns)


def _wrong_with(report: UnwindReport) -> _Wrong | None:
    if report.closed:
        return None
    return _Wrong("stuck", f"not undone: {', '.join(step.step for step in report.failed)}")


def _reason(why: Unwind) -> dict[str, str]:
    told = {"orchestrator_core.unwind.reason": why.reason.value}
    by = why.detail.get("by")
    return told | {"orchestrator_core.unwind.by": by} if isinstance(by, str) else told


def _links(carried: Mapping[str, Any]) -> list[Link]:
    """Return the link to a deployment's span; none if it was not traced."""
    carrier = {_TRACEPARENT: str(carried.get(_TRACEPARENT, ""))}
    context = trace.get_current_span(_W3C.extract(carrier, Context())).get_span_context()
    return [trace.Link(context)] if context.is_valid else []


def _ns(timestamp: str) -> int:
    return round(dt.datetime.fromisoformat(timestamp).timestamp() * 1e9)


def _ns_of(duration_ms: float) -> int:
    return round(duration_ms * 1e6)
