"""Values of the domain: ids, status, records, the spec of an agent, its limits and its end."""
