"""An application that traces, and its spans."""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator_core.otel import TracingObserver


class Traces:
    """The provider of the application, which keeps its spans in memory."""

    def __init__(self):
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.tracer = self.provider.get_tracer("the application's")

    def observer(self, **how):
        return TracingObserver(tracer_provider=self.provider, **how)

    def all(self):
        return self.memory.get_finished_spans()

    def named(self, name):
        return [span for span in self.all() if span.name == name]

    def below(self, parent):
        """Return the spans below a span, in the order of their start."""
        mine = [s for s in self.all() if s.parent and s.parent.span_id == parent.context.span_id]
        return sorted(mine, key=lambda span: span.start_time)


def is_linked(span, other):
    return [other.context.span_id] == [link.context.span_id for link in span.links] and [
        other.context.trace_id
    ] == [link.context.trace_id for link in span.links]
