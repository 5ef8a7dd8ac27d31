"""How Alembic runs the steps: on the connection, and in the transaction, of whoever asks for them."""

from __future__ import annotations

from alembic import context

from jupyter_gpuaas.controller.catalogue.all_tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot change a column: the table is made anew, and its rows are copied.
    render_as_batch=True,
)
context.run_migrations()
