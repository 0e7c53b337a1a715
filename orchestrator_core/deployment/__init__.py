"""An agent's life: its deployment, its reports, and its end."""
